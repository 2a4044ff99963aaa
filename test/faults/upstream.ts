/** Owns what exists at Vault and at the target under our name, asked with Vault's root token and the target's superuser. */
import { X509Certificate } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { dashed } from '../../src/domain/ids.js'
import { askVault as ask } from '../real/ask-vault.js'
import type { World } from './world.js'

export interface Thing {
  readonly kind: 'lease' | 'role' | 'token' | 'certificate'
  /** Lease id, role name, serial, or the credential that the token's metadata names. */
  readonly id: string
}
export const text = (thing: Thing) => `${thing.kind} ${thing.id}`

/** A listing that failed is no empty listing: everything but 200 and Vault's "nothing there" throws. */
export async function askVault(world: World, method: string, path: string, absent: readonly number[], body?: object) {
  const { status, body: answer } = await ask(world.vault.address, world.vault.rootToken, method, path, body)
  if (status === 204) return {}
  if (status === 200) return (answer.data ?? {}) as Record<string, unknown>
  if (absent.includes(status)) return null
  throw new Error(`Vault answered ${status} to ${method} ${path}`)
}

export async function listAccessors(world: World): Promise<{ accessor: string; data: Record<string, unknown> | null }[]> {
  const keys = ((await askVault(world, 'LIST', 'auth/token/accessors', []))?.keys ?? []) as string[]
  return Promise.all(
    keys.map(async accessor => ({ accessor, data: await askVault(world, 'POST', 'auth/token/lookup-accessor', [400, 403, 404], { accessor }) })),
  )
}

const LEASES = ['database/creds/orders-ro', 'pki/issue/workload']

/** What is on the revocation list stays there, what is over is over, and the authority's own is not ours: none is read twice. */
const settledSerials = new Set<string>()

/** Those that a verifier would take, by their issuer's list. */
async function goodCertificates(world: World): Promise<string[]> {
  const serials = ((await askVault(world, 'LIST', 'pki/certs', [404]))?.keys ?? []) as string[]
  const good: string[] = []
  for (const serial of serials.filter(s => !settledSerials.has(s))) {
    const read = await askVault(world, 'GET', `pki/cert/${serial}`, [404])
    if (!read) continue
    const certificate = new X509Certificate(String(read.certificate))
    if (read.revocation_time === 0 && !certificate.ca && Date.parse(certificate.validTo) > Date.now()) good.push(serial)
    else settledSerials.add(serial)
  }
  return good
}

export async function upstream(world: World): Promise<Thing[]> {
  const things: Thing[] = []
  for (const path of LEASES) {
    const leases = ((await askVault(world, 'LIST', `sys/leases/lookup/${path}`, [404]))?.keys ?? []) as string[]
    for (const key of leases) things.push({ kind: 'lease', id: `${path}/${key}` })
  }
  for (const serial of await goodCertificates(world)) things.push({ kind: 'certificate', id: serial })
  for (const { accessor, data } of await listAccessors(world)) {
    const meta = (data?.meta ?? {}) as Record<string, string>
    // Listed and not readable is on its way out; until no listing shows it, it counts as there.
    if (!data) things.push({ kind: 'token', id: `unreadable ${accessor}` })
    else if (meta.curfew) things.push({ kind: 'token', id: meta.credential_id ?? 'unnamed' })
  }
  const roles = await world.rows<{ rolname: string }>('target', `select rolname from pg_roles where rolname like 'curfew\\_crd%'`)
  for (const { rolname } of roles) things.push({ kind: 'role', id: rolname })
  return things
}

interface Known {
  readonly id: string
  readonly state: string
  readonly handle: { readonly leaseId?: string; readonly role?: string; readonly accessor?: string; readonly serial?: string } | null
}

/** What no row answers for. A row that is still being ended answers for what it holds, unless everything is at rest: then only `active` does. */
export async function orphans(world: World, options: { atRest?: boolean; strict?: ReadonlySet<string> } = {}): Promise<Thing[]> {
  const things = await upstream(world)
  const states = options.atRest ? ['active'] : ['pending', 'active', 'revoking', 'stuck']
  const rows = await world.rows<Known>('store', 'select id, state, handle from curfew.credentials where state = any($1::text[])', [states])
  const known = new Set(
    rows.flatMap(r => [`token ${r.id}`, `lease ${r.handle?.leaseId}`, `role curfew_${dashed(r.id)}`.toLowerCase(), `certificate ${r.handle?.serial}`]),
  )
  // Neither a lease nor a certificate has a name of ours: one whose answer was lost may be of any row that waits for a listing.
  const mayHoldUnrecorded = rows.some(r => r.handle?.accessor !== undefined && r.handle.leaseId === undefined)
  return things.filter(
    t =>
      options.strict?.has(text(t)) ||
      !(
        known.has(text(t)) ||
        ((t.kind === 'lease' || t.kind === 'certificate') && mayHoldUnrecorded) ||
        (t.kind === 'role' && known.has(text(t).toLowerCase()))
      ),
  )
}

/**
 * Vault writes a token's accessor before the token: a client that dies between the two leaves a name that is listed and that an unsealed
 * server answers as invalid, which is absence (security.md 3.2). It is on its way out only when it goes; so long it counts as there.
 */
const isDebris = (thing: Thing): boolean => thing.kind === 'token' && thing.id.startsWith('unreadable ')
const DEBRIS_MS = 20_000
/** What has lasted so long lasts until Vault tidies up: it is waited for once, not after every run that follows. */
const outlasted = new Set<string>()

export async function clearedWithin(world: World, options: Parameters<typeof orphans>[1], ms: number): Promise<{ left: Thing[]; took: number }> {
  const since = performance.now()
  for (;;) {
    const left = (await orphans(world, options)).filter(thing => !outlasted.has(thing.id))
    const took = performance.now() - since
    if (left.every(isDebris) && took > DEBRIS_MS) {
      for (const { id } of left) outlasted.add(id)
      return { left: [], took }
    }
    if (left.length === 0 || took > ms) return { left, took }
    await sleep(200)
  }
}
