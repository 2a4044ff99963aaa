/** Owns the seeded bugs of the models (security.md section 7): each puts a process together wrongly, and the twin must find it. */
import type { Credential } from '../../src/domain/credential.js'
import type { Task } from '../../src/domain/task.js'
import type { Sql } from '../../src/store/sql.js'
import type { Mistake } from './world.js'

/** The handle is kept in the process until the credential is activated, both in one write: rule 2 turned round. */
export const NAIVE: Mistake = ({ store, ...parts }) => {
  const kept = new Map<string, object>()
  return {
    ...parts,
    store: {
      ...store,
      credentials: {
        ...store.credentials,
        recordHandle: async (credential, handle) => {
          kept.set(credential.id, handle)
          return credential
        },
        settle: (made, context) =>
          store.credentials.settle(
            made.map(({ credential, minted }) => ({ credential, minted: { ...minted, handle: { ...kept.get(credential.id), ...minted.handle } } })),
            context,
          ),
      },
    },
  }
}

/** Handle and activation are written blindly, whatever became of the row meanwhile. The database's own guard stands in the way: see `unguarded`. */
export const noCas =
  (sql: Sql): Mistake =>
  ({ store, ...parts }) => ({
    ...parts,
    store: {
      ...store,
      credentials: {
        ...store.credentials,
        async recordHandle(credential, handle) {
          await store.credentials.noteHandle(credential.id, handle)
          return store.credentials.get(credential.id)
        },
        async settle(made, context) {
          for (const { credential, minted } of made) {
            await store.credentials.noteHandle(credential.id, minted.handle)
            await sql.query(
              `update curfew.credentials set state = 'active', version = version + 1, reason = null, revocation = null, revoking_at = null, next_attempt_at = null
               where id = $1`,
              [credential.id],
            )
            await store.audit.append({ kind: 'credential.issued', ...context, subject: credential.id, reason: null, data: {} })
          }
          return Promise.all(made.map(async m => (await store.credentials.get(m.credential.id)) as Credential))
        },
      },
    },
  })

/** The parts of a bundle are settled one after the other: a transaction each. */
export const PIECEMEAL: Mistake = ({ store, ...parts }) => ({
  ...parts,
  store: {
    ...store,
    credentials: {
      ...store.credentials,
      async settle(made, context) {
        const settled: Credential[] = []
        for (const one of made) settled.push(...((await store.credentials.settle([one], context)) ?? []))
        return settled.length === made.length ? settled : null
      },
    },
  },
})

/** Runs `act` without the trigger that refuses what no statement of ours tries. */
export async function unguarded(sql: Sql, act: () => Promise<void>): Promise<void> {
  await sql.query('alter table curfew.credentials disable trigger guard_state')
  try {
    await act()
  } finally {
    await sql.query('alter table curfew.credentials enable trigger guard_state')
  }
}

/** A row whose read may be in flight is called dead as soon as its token is: without the waiting rule of section 3.4. */
export const NOWAIT: Mistake = ({ engine, ...parts }) => ({
  ...parts,
  engine: {
    ...engine,
    async probe(credential, signal) {
      const probe = await engine.probe(credential, signal)
      return probe.outcome === 'waiting' ? { ...probe, outcome: 'dead' } : probe
    },
  },
})

/** A sign of life is taken from whoever holds the token, without a look at whether the task has ended. */
export const DEAF: Mistake = ({ store, ...parts }) => ({
  ...parts,
  store: { ...store, tasks: { ...store.tasks, heartbeat: async id => (await store.tasks.get(id)) as Task } },
})

/** Whoever opens a child writes down what the child asked for elsewhere, and not what the grant lets it have. */
export const WIDER: Mistake = ({ store, ...parts }) => ({
  ...parts,
  store: {
    ...store,
    tasks: {
      ...store.tasks,
      open: (task, ...rest) => store.tasks.open(task.parent === null ? task : { ...task, capabilities: [...task.capabilities, 'db/other'] }, ...rest),
    },
  },
})
