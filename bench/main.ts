/** Owns `npm run bench -- <figure> [--json FILE] [--profile] [--size N] [--rows N] [--only LETTERS] [--samples N]`. */
import { parseArgs } from 'node:util'
import { benchGuard } from './guard.js'
import { benchIssue } from './issue.js'
import { benchRevoke } from './revoke.js'
import { benchTiming } from './timing.js'

const number = (text: string | undefined): number | null => {
  if (text === undefined) return null
  if (!/^[1-9]\d{0,7}$/.test(text)) throw new Error(`not a number: ${text}`)
  return Number(text)
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: 'string' },
      profile: { type: 'boolean', default: false },
      size: { type: 'string' },
      rows: { type: 'string' },
      only: { type: 'string' },
      samples: { type: 'string' },
    },
  })
  const json = values.json ?? null
  switch (positionals.join(' ')) {
    case 'issue':
      return benchIssue({ json, profile: values.profile })
    case 'revoke':
      return benchRevoke({ json, size: number(values.size), rows: number(values.rows), only: values.only ?? null })
    case 'guard':
      return benchGuard({ json, size: number(values.size), only: values.only ?? null })
    case 'timing':
      return benchTiming({ json, samples: number(values.samples) })
    default:
      process.stderr.write(
        'usage: npm run bench -- issue [--json FILE] [--profile]\n       npm run bench -- revoke [--json FILE] [--size 100000] [--rows 200000] [--only abcde]\n       npm run bench -- guard [--json FILE] [--size 100000] [--only abcde]\n       npm run bench -- timing [--json FILE] [--samples 10000]\n',
      )
      return 2
  }
}

// An exit takes the servers along that were started; a mere signal would not.
for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => process.exit(130))
process.exitCode = await main()
