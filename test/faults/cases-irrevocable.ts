/** Owns F25: Vault has given a lease up, and restarts; we have not. */
import { setTimeout as sleep } from 'node:timers/promises'
import { issued, metric } from './cases-revoke.js'
import { clientsOf } from './clients.js'
import { rowOf, when } from './queues.js'
import { type Report, say } from './report.js'
import { askVault } from './upstream.js'
import { kill, type World } from './world.js'

/** Six attempts, 10 s doubling and up to half as long again; before the first its token has to end. */
const ITS_OWN_MS = 1_000_000
/** What Vault writes down of a lease that it tries no more (vault/expiration.go, markLeaseIrrevocable). */
const GIVEN_UP = 'out of retries'
const GOES_ON_MS = 8_000

interface Irrevocable {
  readonly lease_id: string
  readonly error: string
}

const irrevocable = async (world: World): Promise<readonly Irrevocable[]> =>
  ((await askVault(world, 'GET', 'sys/leases?type=irrevocable', []))?.leases ?? []) as Irrevocable[]

/** Vault's six attempts take 310 to 930 s, and no setting makes them shorter. What they leave is one member of the lease's entry, which is written as Vault writes it. */
async function giveUp(world: World, lease: string): Promise<void> {
  const path = `sys/raw/sys/expire/id/${lease}`
  const { value } = (await askVault(world, 'GET', path, [])) as { value: string }
  await askVault(world, 'PUT', path, [], { value: JSON.stringify({ ...JSON.parse(value), revokeErr: GIVEN_UP }) })
}

export async function irrevocableCases(world: World, report: Report, isLong: boolean): Promise<void> {
  const how = isLong ? 'after six attempts of its own' : 'written into its entry (six attempts take 310 to 930 s: --long)'
  const broker = await world.broker()
  const worker = await world.worker()
  try {
    await report.case(`F25 target down, its lease irrevocable at Vault, ${how}, and Vault killed and back`, async c => {
      const clients = clientsOf(world, broker, c.ledger)
      const held = await issued(clients, { ttlSeconds: 30 })
      const [row] = await world.rows<{ lease: string }>('store', `select handle->>'leaseId' as lease from curfew.credentials where task = $1`, [held.task])
      const lease = row?.lease as string
      await world.stopPostgres('target', 'fast')
      const down = performance.now()
      await clients.complete(held)
      await when('it is stuck', async () => (await rowOf(world, held.task)).state === 'stuck', 60_000)
      c.expect((await metric(broker, /^curfew_credentials\{state="stuck"\} (\d+)/m)) >= 1, 'it is stuck and no alarm says so')
      const alarmed = performance.now() - down
      c.expect(alarmed < 60_000, `the alarm came after ${alarmed} ms`)
      if (isLong) {
        say('  F25 waits for Vault, 310 to 930 s')
        await when('Vault has given it up by itself', async () => (await irrevocable(world)).some(l => l.lease_id === lease), ITS_OWN_MS)
      } else await giveUp(world, lease)
      await world.restartVault()
      await when('Vault lists it as irrevocable', async () => (await irrevocable(world)).some(l => l.lease_id === lease && l.error.includes(GIVEN_UP)))

      const before = await rowOf(world, held.task)
      const since = performance.now()
      while (performance.now() - since < GOES_ON_MS || (await rowOf(world, held.task)).attempts === before.attempts) {
        const seen = await rowOf(world, held.task)
        if (seen.state !== 'stuck') c.wrong(`it is ${seen.state} while its lease is there and its target down`)
        if (performance.now() - since > 60_000) throw new Error('nobody tries any more')
        await sleep(250)
      }
      const tried = (await rowOf(world, held.task)).attempts
      await world.startPostgres('target')
      const back = Date.now()
      await when('it is revoked', async () => (await rowOf(world, held.task)).state === 'revoked', 60_000)
      c.expect((await irrevocable(world)).length === 0, 'Vault still lists it')
      await c.judge()
      const end = await rowOf(world, held.task)
      c.expect(end.successes === 1, `${end.successes} rows of success`)
      return `stuck after ${(alarmed / 1000).toFixed(1)} s, ${tried} attempts by us; revoked ${(((end.revokedAt ?? Number.NaN) - back) / 1000).toFixed(1)} s after the target's return, and off Vault's list`
    })
    await report.case('F25 twin: the same acts, and Vault killed and back', async c => {
      const clients = clientsOf(world, broker, c.ledger)
      const held = await issued(clients)
      await world.restartVault()
      c.expect((await clients.complete(held)).subject !== null, 'it could not be completed')
      const { slowestMs } = await c.judge()
      return `revoked after ${slowestMs} ms`
    })
  } finally {
    await Promise.all([kill(broker.child), kill(worker)])
  }
}
