/** Owns what is read from standard input: all of it, or one line of a person's answer. */
import { isatty } from 'node:tty'
import { usage } from './exit.js'
import type { Input } from './output.js'

/** Longer than any token or digest. Characters. */
const MOST = 65_536

/** Nothing is opened before it is wanted: a stream that nobody reads keeps a process up. */
export const standardInput: Input = {
  get terminal() {
    return isatty(0)
  },
  async text() {
    let text = ''
    for await (const chunk of process.stdin.setEncoding('utf8')) {
      text += chunk
      if (text.length > MOST) throw usage('standard input is longer than a token can be')
    }
    return text
  },
  async line() {
    const { createInterface } = await import('node:readline')
    const lines = createInterface({ input: process.stdin })
    try {
      return await new Promise<string | null>(resolve => {
        lines.once('line', resolve)
        lines.once('close', () => resolve(null))
      })
    } finally {
      lines.close()
    }
  },
}
