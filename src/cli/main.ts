/** Owns the entry of the command line: this process's arguments, streams and exit code, and nothing else. */
import { standardInput } from './input.js'
import { run } from './program.js'

const io = {
  env: process.env,
  out: (text: string) => void process.stdout.write(text),
  err: (text: string) => void process.stderr.write(text),
  colour: process.stderr.isTTY === true && !process.env.NO_COLOR,
  input: standardInput,
  watched: process.stderr.isTTY === true,
}
// `curfew list | head` closes the pipe early: that is no failure of ours.
process.stdout.on('error', error => {
  if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error
})
process.exitCode = await run(process.argv.slice(2), io)
