/** Owns `npm run bench -- <figure> [--json FILE] [--profile]`. */
import { benchIssue, type Options } from './issue.js'

const FIGURES: Readonly<Record<string, (options: Options) => Promise<number>>> = { issue: benchIssue }
const [name = '', ...words] = process.argv.slice(2)
const figure = FIGURES[name]
const json = words.indexOf('--json')
if (!figure) {
  process.stderr.write(`usage: npm run bench -- ${Object.keys(FIGURES).join('|')} [--json FILE] [--profile]\n`)
  process.exitCode = 2
} else process.exitCode = await figure({ json: json === -1 ? null : (words[json + 1] ?? null), profile: words.includes('--profile') })
