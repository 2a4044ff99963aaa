/** Owns brokers that are stopped in the middle of one request each, so that something can be done to the world behind their back. */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Failpoint } from '../../src/failpoint.js'
import { type Clients, clientsOf } from './clients.js'
import type { Entry, Held, Ledger } from './ledger.js'
import { type Broker, kill, NEVER_MS, type Start, type World } from './world.js'

export interface Stopped {
  readonly step: Failpoint
  readonly broker: Broker
  readonly clients: Clients
  readonly held: Held
  readonly answer: Promise<Entry>
  resume(): void
}

/** Life above the switch, so that every issue has to be kept alive at Vault (5b). */
const TTL_SECONDS = 60

export const isStopped = (pid: number): boolean => {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  return stat.slice(stat.lastIndexOf(')') + 2).startsWith('T')
}

/** None of them sweeps, so that each acts for its own request alone once it is awake. */
export async function stoppedAt(world: World, ledger: Ledger, steps: readonly Failpoint[], start: Start = {}): Promise<Stopped[]> {
  const timers = { issuanceTokenSeconds: 30, sweepMs: NEVER_MS, reconcileMs: NEVER_MS }
  const brokers = await Promise.all(steps.map(step => world.broker({ failpoint: `${step}=stop`, queue: 'memory', timers, ...start })))
  return Promise.all(
    steps.map(async (step, i) => {
      const broker = brokers[i] as Broker
      const clients = clientsOf(world, broker, ledger)
      const held = await clients.opened()
      const answer = clients.issue(held, 'db', { ttlSeconds: TTL_SECONDS })
      const { pid } = broker.child.mark
      for (let n = 0; n < 500 && !isStopped(pid); n++) await sleep(10)
      if (!isStopped(pid)) throw new Error(`the broker did not stop at ${step}: ${JSON.stringify(await answer)}`)
      return { step, broker, clients, held, answer, resume: () => void process.kill(pid, 'SIGCONT') }
    }),
  )
}

export async function endAll(stopped: readonly Stopped[]): Promise<void> {
  await Promise.all(stopped.map(s => kill(s.broker.child)))
}
