/** Owns `npm run bench -- <figure>`. */
import { benchIssue } from './issue.js'

const FIGURES: Readonly<Record<string, () => Promise<number>>> = { issue: benchIssue }
const figure = FIGURES[process.argv[2] ?? '']
if (!figure) {
  process.stderr.write(`usage: npm run bench -- ${Object.keys(FIGURES).join('|')}\n`)
  process.exitCode = 2
} else process.exitCode = await figure()
