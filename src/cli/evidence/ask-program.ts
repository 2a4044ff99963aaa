/** Owns asking a program of the job's agent for a token: its answer is a secret, and its complaint is shown in one line. */
import { execFile } from 'node:child_process'
import { unavailable } from './source.js'

const WAIT_MS = 20_000
const MOST_BYTES = 65_536

/** What stands on its standard output. @param next what to do when there is no such program. */
export function askProgram(
  program: string,
  args: readonly string[],
  options: { readonly env: Readonly<Record<string, string | undefined>>; readonly signal: AbortSignal; readonly next: string },
): Promise<string> {
  return new Promise((resolve, reject) => {
    const run = { env: options.env as NodeJS.ProcessEnv, signal: options.signal, timeout: WAIT_MS, maxBuffer: MOST_BYTES, windowsHide: true }
    const child = execFile(program, [...args], run, (error, stdout, stderr) => {
      if (!error) resolve(stdout.trim())
      else if (options.signal.aborted) reject(options.signal.reason)
      else if (error.code === 'ENOENT') reject(unavailable(`there is no ${program} on the PATH of this job`, options.next, error))
      else {
        const said = stderr.trim().split('\n').at(-1)?.slice(0, 200) ?? ''
        // Without the cause: it holds the whole output.
        reject(unavailable(`${program} gave no token${said === '' ? '' : `: ${said}`}`))
      }
    })
    child.stdin?.end()
  })
}
