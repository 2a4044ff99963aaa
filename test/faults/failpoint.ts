/** Owns the armed failpoints of a fault run: resolved in the place of src/failpoint.ts under `--conditions=curfew-faults`, and never otherwise. */
import { setTimeout as sleep } from 'node:timers/promises'
import { FAILPOINTS, type Failpoint } from '../../src/failpoint.js'
import { breakGuard } from './broken.js'

export { FAILPOINTS, type Failpoint }

/**
 * `CURFEW_FAILPOINT=issue.4b=kill`: kill (no goodbye), stop (the process sleeps until SIGCONT, once), throw, or delay:<ms>. With `issue.4b#2=kill`
 * only when it is reached for the second time: the parts of a bundle pass the same step, each for itself.
 */
const [point, how] = (process.env.CURFEW_FAILPOINT ?? '').split('=')
const [at, nth] = (point ?? '').split('#')
let reached = 0
let hasSlept = false

if (process.env.CURFEW_BREAK) breakGuard(process.env.CURFEW_BREAK)

export async function fp(here: Failpoint): Promise<void> {
  if (here !== at || how === undefined || (nth !== undefined && ++reached !== Number(nth))) return
  if (how === 'kill') process.kill(process.pid, 'SIGKILL')
  else if (how === 'stop') {
    if (hasSlept) return
    hasSlept = true
    process.kill(process.pid, 'SIGSTOP')
  } else if (how === 'throw') throw new Error(`failpoint ${here}`)
  else await sleep(Number(how.split(':')[1] ?? 1_000))
  // A signal to oneself is delivered before anything else of ours runs, but not before this call returns.
  if (how === 'kill') await new Promise(() => {})
}
