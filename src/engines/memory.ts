/** Owns an in-memory server of short-lived users for dev, demo and tests: same steps and same obligations as a real target, and hands to break it. */
import { randomBytes } from 'node:crypto'
import { z } from 'zod'
import type { Credential, Handle, Probe } from '../domain/credential.js'
import type { Grant } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import type { CredentialId } from '../domain/ids.js'
import { dashed } from '../domain/ids.js'
import { Secret } from '../domain/secret.js'
import type { CredentialEngine, Minted, Reconcilable } from '../ports.js'
import { parametersOf } from './parameters.js'

export const MEMORY_STEPS = ['prepare', 'mint', 'extend', 'destroy', 'probe'] as const
export type MemoryStep = (typeof MEMORY_STEPS)[number]
/**
 * `fail`: nothing happens and the caller hears so. `lose`: it happens and the answer is lost. `hang`: nothing until the caller gives up.
 * `lie`: nothing happens and the caller hears success.
 */
export type MemoryFault = 'fail' | 'lose' | 'hang' | 'lie'

export interface MemoryUser {
  readonly name: string
  readonly credential: CredentialId
  readonly password: string
  readonly bornAt: number
  /** Whether the dead man's switch was lifted. */
  extended: boolean
}

export interface MemoryEngine {
  readonly engine: CredentialEngine
  readonly reconcilable: Reconcilable
  /** By account, the crash handle. */
  readonly accounts: ReadonlyMap<string, { readonly credential: CredentialId; readonly bornAt: number }>
  readonly users: ReadonlyMap<string, MemoryUser>
  /** What the target would say to whoever presents these. */
  login(user: string, password: string): boolean
  /** The next `times` calls of a step meet this fault; without `times`, all of them until `heal`. */
  break(step: MemoryStep, fault: MemoryFault, times?: number): void
  heal(step?: MemoryStep): void
}

const PARAMETERS = z.strictObject({
  host: z.string().min(1).max(253).default('localhost'),
  port: z.int().min(1).max(65_535).default(5432),
  database: z.string().min(1).max(63).default('demo'),
})

/** @param kind under which the engine is registered: more than one may live in one process. */
export function memoryEngine(kind = 'memory'): MemoryEngine {
  const accounts = new Map<string, { credential: CredentialId; bornAt: number }>()
  const users = new Map<string, MemoryUser>()
  const faults = new Map<MemoryStep, { fault: MemoryFault; left: number }>()

  const failed = (reason: string) => new CurfewError('engine_failed', 'the in-memory target did not answer as asked', { reason })

  /** Runs one step of the target with the fault that is set for it. */
  async function at<T>(step: MemoryStep, signal: AbortSignal, act: () => T, lie: () => T): Promise<T> {
    signal.throwIfAborted()
    const set = faults.get(step)
    if (!set) return act()
    set.left -= 1
    if (set.left <= 0) faults.delete(step)
    switch (set.fault) {
      case 'fail':
        throw failed('target_refused')
      case 'lose':
        act()
        throw failed('answer_lost')
      case 'lie':
        return lie()
      case 'hang':
        return new Promise<T>((_resolve, reject) => {
          const give = () => reject(failed('deadline'))
          if (signal.aborted) give()
          else signal.addEventListener('abort', give, { once: true })
        })
    }
  }

  const remove = (accessor: unknown) => {
    accounts.delete(String(accessor))
    for (const [name, user] of users) if (accessorOf(user.credential) === accessor) users.delete(name)
  }
  const accessorOf = (id: CredentialId) => `account-${dashed(id)}`
  const ageSeconds = (bornAt: number) => (performance.now() - bornAt) / 1000

  const engine: CredentialEngine = {
    kind,
    revocation: 'backend',
    local: false,

    check: parameters => void parametersOf(PARAMETERS, parameters),

    prepare: (grant, signal) =>
      at(
        'prepare',
        signal,
        (): Handle => {
          accounts.set(accessorOf(grant.id), { credential: grant.id, bornAt: performance.now() })
          return { accessor: accessorOf(grant.id) }
        },
        () => ({ accessor: accessorOf(grant.id) }),
      ),

    mint: (grant, handle, signal) => {
      if (typeof handle?.accessor !== 'string') throw new TypeError('mint needs the handle that prepare gave')
      const { accessor } = handle
      const minted = (): Minted => {
        if (!accounts.has(accessor)) throw failed('account_gone')
        const user = newUser(grant)
        users.set(user.name, user)
        return answer(grant, user)
      }
      return at('mint', signal, minted, () => answer(grant, newUser(grant)))
    },

    extend: (credential, signal) =>
      at(
        'extend',
        signal,
        () => {
          const user = users.get(String(credential.handle?.user))
          if (!user) throw failed('user_gone')
          user.extended = true
        },
        () => {},
      ),

    destroy: (credential, signal) =>
      at(
        'destroy',
        signal,
        () => remove(credential.handle?.accessor),
        () => {},
      ),

    probe: (credential, signal) =>
      at(
        'probe',
        signal,
        () => look(credential),
        (): Probe => ({ outcome: 'alive', looked: ['role'], detail: 'the target did not say' }),
      ),
  }

  const newUser = (grant: Grant): MemoryUser => ({
    name: `curfew_${dashed(grant.id)}`,
    credential: grant.id,
    password: randomBytes(18).toString('base64url'),
    bornAt: performance.now(),
    extended: false,
  })

  function answer(grant: Grant, user: MemoryUser): Minted {
    const { host, port, database } = parametersOf(PARAMETERS, grant.terms.capability.parameters)
    const fields = { PGHOST: host, PGPORT: String(port), PGDATABASE: database, PGUSER: user.name, PGPASSWORD: user.password, PGAPPNAME: `curfew/${grant.id}` }
    return { secret: new Secret(fields, 'PGPASSWORD'), handle: { user: user.name }, expiresAt: null, kid: null }
  }

  /** An account and its user vanish in one step here, so that nothing can be in flight. */
  function look(credential: Credential): Probe {
    const looked = ['accessor', 'role']
    const { handle } = credential
    if (!handle) return { outcome: 'dead', looked: [], detail: 'nothing was made' }
    if (accounts.has(String(handle.accessor))) return { outcome: 'alive', looked, detail: 'the account is there' }
    if ([...users.values()].some(u => u.credential === credential.id)) return { outcome: 'alive', looked, detail: 'the user is there' }
    return { outcome: 'dead', looked, detail: null }
  }

  return {
    engine,
    reconcilable: {
      engine: kind,
      list: async signal => {
        signal.throwIfAborted()
        return [...accounts].map(([ref, a]) => ({ kind: 'accessor' as const, ref, credential: a.credential, ageSeconds: ageSeconds(a.bornAt) }))
      },
      destroyUpstream: async (thing, signal) => {
        signal.throwIfAborted()
        remove(thing.ref)
      },
    },
    accounts,
    users,
    login: (name, password) => users.get(name)?.password === password,
    break: (step, fault, times = Number.POSITIVE_INFINITY) => void faults.set(step, { fault, left: times }),
    heal: step => (step ? void faults.delete(step) : faults.clear()),
  }
}
