/** Owns how a worker dies in the middle of a revocation, at each place that there is (security.md, F14 to F21), whether a job or its own sweep gave it the row. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Child } from '../../src/dev/process.js'
import { isStopped } from './formation.js'
import { putOff, when } from './queues.js'
import type { Start, World } from './world.js'

export const REVOKE = /^(POST|PUT) \/v1\/sys\/leases\/revoke/

/** What each is called, and what it leaves behind of its row. */
export const DEATHS = {
  unclaimed: { id: 'F14', name: 'row picked up, nothing claimed', leaves: 'revoking' },
  claiming: { id: 'F15', name: 'claim written, uncommitted', leaves: 'revoking' },
  'revoke.3a': { id: 'F16', name: 'claim committed (3a)', leaves: 'revoking, claimed' },
  destroying: { id: 'F17', name: 'destroy sent, unanswered', leaves: 'revoking, claimed' },
  'revoke.3b': { id: 'F18', name: 'destroy answered (3b)', leaves: 'revoking, claimed' },
  'revoke.3c': { id: 'F19', name: 'probe answered (3c)', leaves: 'revoking, claimed' },
  confirming: { id: 'F20', name: 'confirm and audit written, uncommitted', leaves: 'revoking, claimed' },
  'revoke.4': { id: 'F21', name: 'committed, job unacknowledged (4)', leaves: 'revoked' },
} as const
export type Death = keyof typeof DEATHS

export async function ends(worker: Child): Promise<void> {
  for (let i = 0; i < 500 && !worker.hasEnded(); i++) await sleep(20)
  if (!worker.hasEnded()) throw new Error('the worker lives on')
}

async function killed(worker: Child): Promise<void> {
  process.kill(worker.mark.pid, 'SIGKILL')
  await ends(worker)
}

const CLAIM = `query ilike 'update curfew.credentials set version = version + 1, claimed_until%'`
export const claims = (world: World) => world.rows<{ pid: number }>('store', `select pid from pg_stat_activity where wait_event_type = 'Lock' and ${CLAIM}`)

/** Dead in the middle of its claim, and its connection with it: what it had written of it is rolled back. */
export async function dieClaiming(world: World, worker: Child): Promise<void> {
  await when('a claim waits for a lock', async () => (await claims(world)).length > 0)
  await killed(worker)
  for (const { pid } of await claims(world)) await world.rows('store', 'select pg_terminate_backend($1)', [pid])
  await when('its connection is gone', async () => (await claims(world)).length === 0)
}

/** Claims of this row wait: before they are written, or when they are and before their commit. */
export async function whileClaimsWait(world: World, id: string, at: 'before' | 'after', act: () => Promise<void>): Promise<void> {
  await world.rows('store', 'create table curfew.hold_claims ()')
  await world.rows(
    'store',
    `create function curfew.hold_claims() returns trigger language plpgsql as $$ begin lock table curfew.hold_claims in exclusive mode; return new; end $$`,
  )
  await world.rows(
    'store',
    `create trigger hold_claims ${at} update on curfew.credentials for each row
     when (new.claimed_until > coalesce(old.claimed_until, '-infinity') and new.id = '${id}') execute function curfew.hold_claims()`,
  )
  try {
    await world.whileLocked('curfew.hold_claims', act)
  } finally {
    await world.rows('store', 'drop trigger hold_claims on curfew.credentials')
    await world.rows('store', 'drop function curfew.hold_claims()')
    await world.rows('store', 'drop table curfew.hold_claims')
  }
}

/**
 * Starts a worker that dies there, of this row and no other: what it leaves behind tells.
 * @param begin what gives it the row, once everything is set: nothing, where its own sweep finds it.
 */
export async function workerDies(world: World, death: Death, id: string, start: Start, begin: () => Promise<unknown> = async () => {}): Promise<void> {
  await putOff(world, id)
  await dies(world, death, id, start, begin)
  const [row] = await world.rows<{ left: string }>(
    'store',
    `select state || case when claimed_until > curfew.now() then ', claimed' else '' end as left from curfew.credentials where id = $1`,
    [id],
  )
  if (row?.left !== DEATHS[death].leaves) throw new Error(`a death at ${death} left ${row?.left} behind, where it leaves ${DEATHS[death].leaves}`)
}

async function dies(world: World, death: Death, id: string, start: Start, begin: () => Promise<unknown>): Promise<void> {
  switch (death) {
    case 'unclaimed':
    case 'claiming':
      return whileClaimsWait(world, id, death === 'unclaimed' ? 'before' : 'after', async () => {
        const worker = await world.worker(start)
        await begin()
        await dieClaiming(world, worker)
      })
    case 'destroying': {
      const hold = world.proxy.hold('answer', REVOKE)
      const worker = await world.worker(start)
      await begin()
      await hold.met
      await killed(worker)
      return hold.release()
    }
    case 'confirming': {
      // The audit cannot be written while we hold its table: it dies between its two statements and the commit.
      const worker = await world.worker({ ...start, failpoint: 'revoke.3c=stop' })
      await begin()
      await when('it stands at revoke.3c', () => isStopped(worker.mark.pid))
      return world.whileLocked('curfew.audit', async () => {
        process.kill(worker.mark.pid, 'SIGCONT')
        const waits = () => world.rows('store', `select 1 from pg_stat_activity where wait_event_type = 'Lock' and query ilike 'insert into curfew.audit%'`)
        await when('it waits between its statements and its commit', async () => (await waits()).length > 0)
        await killed(worker)
      })
    }
    default:
      return atStep(world, { ...start, failpoint: `${death}=kill` }, begin)
  }
}

/** Of its own sweep it may be dead before it is ready. */
async function atStep(world: World, start: Start, begin: () => Promise<unknown>): Promise<void> {
  let worker: Child
  try {
    worker = await world.worker(start)
  } catch (cause) {
    if (/ended with SIGKILL/.test(String(cause))) return
    throw cause
  }
  await begin()
  await ends(worker)
}

/** The claim of a dead worker holds for 30 s; here, where said so, it is made to run out at once. @param id of this row alone. */
export const lapse = (world: World, id: string | null = null) =>
  world.rows(
    'store',
    `update curfew.credentials set claimed_until = curfew.now()
     where state in ('revoking', 'stuck') and claimed_until > curfew.now() and ($1::text is null or id = $1)`,
    [id],
  )
