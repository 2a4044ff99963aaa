/** Owns a database in memory: users that are made, used and dropped, for dev, demo and tests, with hands to break it. */
import { randomBytes } from 'node:crypto'
import type { Credential, Probe } from '../domain/credential.js'
import { CurfewError } from '../domain/errors.js'
import { dashed } from '../domain/ids.js'
import { Secret } from '../domain/secret.js'
import type { CredentialEngine } from '../ports.js'

export interface MemoryEngine extends CredentialEngine {
  /** What a client of that database would learn: is this user and password good. */
  login(user: string, password: string): boolean
  readonly users: ReadonlyMap<string, string>
  /** Hands for tests: from now on this step throws, or hangs until its signal, until it is mended. */
  breakStep(step: 'prepare' | 'mint' | 'extend' | 'destroy' | 'probe', how: 'throw' | 'hang'): void
  mend(): void
}

export function memoryEngine(): MemoryEngine {
  const users = new Map<string, string>()
  const broken = new Map<string, 'throw' | 'hang'>()
  const roleOf = (id: string) => `curfew_${dashed(id)}`

  async function step(name: Parameters<MemoryEngine['breakStep']>[0], signal: AbortSignal): Promise<void> {
    const how = broken.get(name)
    if (how === 'throw') throw new CurfewError('engine_failed', `the memory engine was told to fail at ${name}`, { reason: 'broken' })
    if (how === 'hang') {
      await new Promise((_, reject) => {
        const give = () => reject(new CurfewError('engine_failed', `the memory engine did not answer at ${name}`, { reason: 'timeout' }))
        if (signal.aborted) give()
        signal.addEventListener('abort', give, { once: true })
      })
    }
  }

  return {
    kind: 'memory',
    revocation: 'backend',
    local: false,
    users,
    login: (user, password) => users.get(user) === password,
    breakStep: (name, how) => broken.set(name, how),
    mend: () => broken.clear(),
    check(parameters) {
      const [first] = Object.keys((parameters ?? {}) as object)
      if (first !== undefined)
        throw new CurfewError('malformed', 'the memory engine takes no parameters', { reason: 'unknown_field', field: `parameters.${first}` })
    },
    async prepare(grant, signal) {
      await step('prepare', signal)
      return { role: roleOf(grant.id) }
    },
    async mint(grant, _handle, signal) {
      await step('mint', signal)
      const user = roleOf(grant.id)
      const password = randomBytes(24).toString('base64url')
      users.set(user, password)
      const secret = new Secret(
        { PGHOST: 'memory.invalid', PGPORT: '5432', PGDATABASE: 'orders', PGUSER: user, PGPASSWORD: password, PGAPPNAME: `curfew/${grant.id}` },
        'PGPASSWORD',
      )
      return { secret, handle: { role: user }, expiresAt: null, kid: null }
    },
    async extend(_credential, signal) {
      await step('extend', signal)
    },
    async destroy(credential: Credential, signal) {
      await step('destroy', signal)
      if (credential.handle) users.delete(String(credential.handle.role))
    },
    async probe(credential, signal): Promise<Probe> {
      await step('probe', signal)
      const alive = users.has(roleOf(credential.id))
      return { outcome: alive ? 'alive' : 'dead', looked: ['role'], detail: alive ? 'the user is still there' : null }
    },
  }
}
