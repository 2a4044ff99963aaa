/** Owns M1's abstract state (security.md section 7), read off the real world after every step, and what must hold of it then and at rest. */
import { expect } from 'vitest'
import { type Credential, type CredentialState, TRANSITIONS } from '../../src/domain/credential.js'
import type { CredentialId } from '../../src/domain/ids.js'
import type { Store } from '../../src/ports.js'
import { BUNDLE, type World } from './world.js'

/** `closed` is revoking, stuck or revoked. */
export interface Abstract {
  readonly st: 'none' | 'pending' | 'active' | 'closed'
  /** The handle is recorded. */
  readonly acc: boolean
  readonly tok: 'none' | 'live' | 'dead'
  readonly lease: 'none' | 'live' | 'dead'
}

const NOTHING: Abstract = { st: 'none', acc: false, tok: 'none', lease: 'none' }
const ST = ['none', 'pending', 'active', 'closed']
const EXISTS = ['none', 'live', 'dead']

export interface Monitor {
  /** By credential. */
  readonly seen: ReadonlyMap<CredentialId, Abstract>
  /** Looks at the world, and throws when it went where M1 cannot go. Answers the rows. */
  look(): Promise<readonly Credential[]>
}

export function monitorOf(world: World): Monitor {
  const seen = new Map<CredentialId, Abstract>()
  return {
    seen,
    async look() {
      const rows = await world.store.credentials.list({ limit: 1_000 })
      const { tokens, leases } = upstream(world)
      const byId = new Map(rows.map(r => [r.id, r]))
      for (const id of [...leases, ...tokens]) if (!byId.has(id)) throw new Error(`I2: something lives in Vault for ${id}, of which there is no row`)
      for (const row of rows) {
        const before = seen.get(row.id) ?? NOTHING
        const now: Abstract = {
          st: row.state === 'pending' || row.state === 'active' ? row.state : 'closed',
          acc: row.handle?.accessor !== undefined,
          tok: existence(before.tok, tokens.has(row.id)),
          lease: existence(before.lease, leases.has(row.id)),
        }
        const wrong = impossible(before, now) ?? untrue(row, now)
        if (wrong) throw new Error(`${wrong}: ${row.id} from ${JSON.stringify(before)} to ${JSON.stringify(now)}, row ${row.state}`)
        seen.set(row.id, now)
      }
      return rows
    },
  }
}

const existence = (before: 'none' | 'live' | 'dead', lives: boolean) => (lives ? 'live' : before === 'live' ? 'dead' : before)

/** What lives in Vault now, by credential. */
export function upstream({ vault }: World): { tokens: Set<CredentialId>; leases: Set<CredentialId> } {
  const now = performance.now() / 1000
  const tokens = [...vault.tokens.values()].filter(t => t.until > now).flatMap(t => t.meta?.credential_id ?? [])
  const leases = [...vault.leases.values()].filter(l => l.until > now).map(l => l.user.replace(/^curfew_crd-/, 'crd_'))
  return { tokens: new Set(tokens as CredentialId[]), leases: new Set(leases as CredentialId[]) }
}

/** Nothing goes back (I3); a lease that died stays dead. */
function impossible(before: Abstract, now: Abstract): string | null {
  if (ST.indexOf(now.st) < ST.indexOf(before.st)) return 'I3: a state came back'
  if (before.acc && !now.acc) return 'a recorded handle is gone'
  if (EXISTS.indexOf(now.tok) < EXISTS.indexOf(before.tok)) return 'a dead token lives again'
  if (EXISTS.indexOf(now.lease) < EXISTS.indexOf(before.lease)) return 'a dead lease lives again'
  return null
}

/** What holds in every state of M1. */
function untrue(row: Credential, now: Abstract): string | null {
  // Rule 2: whatever was made is within reach of a handle that was committed before.
  if (now.lease === 'live' && !now.acc) return 'a lease lives whose handle is not recorded'
  if (now.st === 'active' && !now.acc && row.engine !== 'jwt') return 'an active row has no handle'
  // Rule 4: requested is not confirmed.
  if (row.state === 'revoked' && now.lease === 'live') return 'what is called revoked lives'
  return null
}

/** I2 where everything has come to rest: what lives has an active row, and what is active lives. */
export function expectAtRest(world: World, rows: readonly Credential[]): void {
  const { tokens, leases } = upstream(world)
  for (const row of rows) expect(['active', 'revoked'], `${row.id} is ${row.state} (${row.failure}) and nothing happens any more`).toContain(row.state)
  const active = rows
    .filter(r => r.engine === 'vault-database' && r.state === 'active')
    .map(r => r.id)
    .sort()
  expect([...leases].sort(), 'I2: live leases and active rows').toEqual(active)
  expect([...tokens].sort(), 'I2: live tokens and active rows').toEqual(active)
}

/** Of every bundle all parts were active once, or none was: no crash and no race leaves some of them. */
export async function expectWhole(store: Store): Promise<number> {
  const told = (await store.audit.list({ limit: 100_000 })).filter(row => row.requestId?.startsWith(BUNDLE))
  const subjects = (kind: string, bundle: string) => new Set(told.filter(row => row.kind === kind && row.requestId === bundle).map(row => row.subject))
  const bundles = [...new Set(told.filter(row => row.kind === 'credential.intended').map(row => row.requestId as string))]
  for (const bundle of bundles) {
    const [intended, issued] = [subjects('credential.intended', bundle), subjects('credential.issued', bundle)]
    expect([0, intended.size], `of the ${intended.size} parts of ${bundle} ${issued.size} were active`).toContain(issued.size)
  }
  return bundles.length
}

const TOLD: Readonly<Record<string, CredentialState>> = {
  'credential.intended': 'pending',
  'credential.issued': 'active',
  'credential.revoking': 'revoking',
  'credential.stuck': 'stuck',
  'credential.revoked': 'revoked',
}

/** I3, as the evidence tells it: every credential's rows are a walk over the only transitions there are, and end where it stands. */
export async function expectTold(store: Store, rows: readonly Credential[]): Promise<void> {
  const told = new Map<string, CredentialState[]>()
  for (const { kind, subject } of [...(await store.audit.list({ limit: 100_000 }))].reverse()) {
    const state = TOLD[kind]
    if (state && subject) told.set(subject, [...(told.get(subject) ?? []), state])
  }
  for (const { id, state, engine } of rows) {
    const walk = told.get(id) ?? []
    // A token is active at once when it is alone, and pending while the other parts of its bundle are made.
    expect(engine === 'jwt' ? ['active', 'pending'] : ['pending'], `I3: ${id} begins as its kind does`).toContain(walk[0])
    for (const [i, to] of walk.slice(1).entries()) {
      const from = walk[i] as CredentialState
      expect(TRANSITIONS[from], `I3: ${id} from ${from}, told as ${walk.join(', ')}`).toContain(to)
    }
    expect(walk.at(-1), `I3: ${id} is told to its end`).toBe(state)
  }
}
