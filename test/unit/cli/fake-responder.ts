/** Owns the responder's half of the fake broker: plans, acts, receipts that are really signed, quarantines, held signals. */
import { randomBytes } from 'node:crypto'
import { type CryptoKey, calculateJwkThumbprint, exportJWK, generateKeyPair, type JWK, SignJWT } from 'jose'
import type { FakeCredential, Seen } from './fake-broker.js'

export interface FakeResponder {
  readonly plans: Map<string, Record<string, unknown>>
  readonly quarantines: Map<string, Record<string, unknown>>
  /** Credentials by the digest of their token. */
  readonly digests: Map<string, string>
  guards: { applied: number; of: number }
  /** Another set of keys than before, as after a loss of all of them. */
  newKeys(): Promise<void>
  answer(seen: Seen): Promise<{ status: number; body?: unknown } | null>
}

export interface FakeHouse {
  readonly issuer: () => string
  readonly credentials: ReadonlyMap<string, FakeCredential>
  readonly signals: ReadonlyMap<string, Record<string, unknown>>
  readonly revocations: ReadonlyMap<string, Record<string, unknown>>
  readonly tasks: () => readonly Record<string, unknown>[]
  end(credentials: FakeCredential[], tasks: string[]): Record<string, unknown>
  operator(seen: Seen): void
  json(seen: Seen, known: readonly string[]): Record<string, unknown>
  refuse(status: number, code: string, detail: string, more?: Record<string, unknown>): never
}

const id = (prefix: string) => `${prefix}_${randomBytes(16).toString('hex').slice(0, 26)}`
const iso = (ms = Date.now()) => new Date(ms).toISOString()

export async function fakeResponder(house: FakeHouse): Promise<FakeResponder> {
  const plans: FakeResponder['plans'] = new Map()
  const quarantines: FakeResponder['quarantines'] = new Map()
  const digests: FakeResponder['digests'] = new Map()
  const idempotent = new Map<string, Record<string, unknown>>()
  const receipts = new Map<string, string>()
  let key: { privateKey: CryptoKey; jwk: JWK } | null = null

  async function newKeys(): Promise<void> {
    const { privateKey, publicKey } = await generateKeyPair('ES256', { extractable: true })
    const jwk = await exportJWK(publicKey)
    key = { privateKey, jwk: { ...jwk, alg: 'ES256', use: 'sig', kid: await calculateJwkThumbprint(jwk) } }
  }

  function hit(selector: Record<string, unknown>): { credentials: FakeCredential[]; tasks: string[] } {
    const { credential, task, identity, issuer, capability, all, owner, label } = selector
    const tasks = house
      .tasks()
      .filter(
        t =>
          t.state === 'open' &&
          (task === t.id || owner === t.owner || Object.entries((label ?? {}) as object).some(([k, v]) => (t.labels as Record<string, unknown>)[k] === v)),
      )
      .map(t => String(t.id))
    const credentials = [...house.credentials.values()].filter(
      c =>
        c.state === 'active' &&
        (all === true || c.id === credential || c.identity === identity || c.issuer === issuer || c.capability === capability || tasks.includes(c.task)),
    )
    return { credentials, tasks }
  }

  function reach(selector: Record<string, unknown>): Record<string, unknown> {
    const { credentials, tasks } = hit(selector)
    const of = (kind: string) => credentials.filter(c => c.revocation === kind)
    const engines: Record<string, number> = {}
    for (const c of credentials) engines[c.engine] = (engines[c.engine] ?? 0) + 1
    const exposed = of('expiry-only').map(c => ({ credential: c.id, capability: c.capability, until: c.expires_at }))
    return {
      credentials: credentials.length,
      tasks: Math.max(tasks.length, new Set(credentials.map(c => c.task)).size),
      instant: of('instant').length,
      backend: of('backend').length,
      expiry_only: exposed.length,
      engines,
      capabilities: new Set(credentials.map(c => c.capability)).size,
      owners: [{ owner: '@orders-team', tasks: 1 }],
      exposed,
      exposed_until: exposed[0]?.until ?? null,
    }
  }

  async function receiptOf(revocation: Record<string, unknown>): Promise<{ receipt: string; claims: Record<string, unknown> }> {
    const rows = [...house.credentials.values()].filter(c => c.ended_by === revocation.id)
    const of = (state: string) => rows.filter(c => c.state === state)
    const exposed = of('revoking')
      .filter(c => c.revocation === 'expiry-only')
      .map(c => ({ credential: c.id, capability: c.capability, until: c.expires_at }))
    const jti = receipts.get(String(revocation.id)) ?? id('rcp')
    receipts.set(String(revocation.id), jti)
    const claims = {
      iss: house.issuer(),
      iat: Math.floor(Date.now() / 1000),
      jti,
      sub: String(revocation.id),
      selector: revocation.selector,
      reason: 'requested',
      message: revocation.message,
      actor: { kind: 'operator', id: 'opr_1' },
      seq: 88_121,
      refused_since: revocation.refused_since,
      tasks: revocation.tasks,
      credentials: { selected: rows.length, revoked: of('revoked').length, revoking: of('revoking').length, stuck: of('stuck').length },
      probed: { lease: 0, accessor: 0, role: 0, sessions: 0, introspection: of('revoked').length, expiry: 0 },
      not_probed: 0,
      guards: responder.guards,
      exposed,
      exposed_until: exposed[0]?.until ?? null,
      final: rows.every(c => c.state === 'revoked'),
    }
    if (!key) throw new Error('no key')
    const receipt = await new SignJWT(claims).setProtectedHeader({ alg: 'ES256', typ: 'curfew-receipt+jwt', kid: key.jwk.kid as string }).sign(key.privateKey)
    return { receipt, claims }
  }

  function revoke(body: Record<string, unknown>): { status: number; body: unknown } {
    const plan = body.plan === undefined ? null : plans.get(String(body.plan))
    if (plan === undefined) return house.refuse(404, 'not_found', 'no such plan')
    if (plan && Date.parse(String(plan.valid_until)) < Date.now()) house.refuse(409, 'conflict', 'the plan has lapsed', { reason: 'plan_lapsed' })
    const selector = (plan?.selector ?? body.selector) as Record<string, unknown>
    const { credentials, tasks } = hit(selector)
    const unknown =
      ('credential' in selector && !house.credentials.has(String(selector.credential))) ||
      ('task' in selector && !house.tasks().some(t => t.id === selector.task))
    if (unknown) house.refuse(404, 'not_found', 'no such thing')
    const known = new Set((plan?.seen ?? []) as string[])
    const newcomers = plan ? credentials.map(c => c.id).filter(c => !known.has(c)) : []
    const revocation = Object.assign(house.end(credentials, tasks), { selector, message: body.reason ?? plan?.reason ?? null })
    if (plan) plan.revocation = (revocation as { id?: string }).id
    const set = body.quarantine ? quarantine(selector, body.quarantine as Record<string, unknown>).id : null
    const receipt = id('rcp')
    receipts.set(String((revocation as { id?: string }).id), receipt)
    return { status: 202, body: { revocation, receipt, ...(plan ? { newcomers } : {}), ...(set === null ? {} : { quarantine: set }) } }
  }

  function quarantine(selector: unknown, { ttl_seconds, message = null }: Record<string, unknown>): Record<string, unknown> {
    const made = {
      id: id('qrn'),
      selector,
      message,
      set_by: { kind: 'operator', id: 'opr_1' },
      set_at: iso(),
      until: iso(Date.now() + Number(ttl_seconds) * 1000),
      lifted_at: null,
      lifted_by: null,
      lift_reason: null,
    }
    quarantines.set(made.id, made)
    return made
  }

  const responder: FakeResponder = {
    plans,
    quarantines,
    digests,
    guards: { applied: 0, of: 0 },
    newKeys,
    async answer(seen) {
      const { method, path } = seen
      if (method === 'GET' && path === '/v1/receipt-keys') return { status: 200, body: { keys: [key?.jwk] } }
      const [, kind, wanted, act] =
        /^\/v1\/(plans|revocations|receipts|quarantines|credentials:find|signals)(?:\/([^/]+))?(?:\/(approve|dismiss))?$/.exec(path) ?? []
      if (kind === undefined || (kind === 'signals' && act === undefined) || (kind === 'revocations' && method === 'GET')) return null
      house.operator(seen)
      const missing = () => house.refuse(404, 'not_found', 'no such thing')
      if (method === 'POST' && kind === 'plans') {
        const { selector, reason = null } = house.json(seen, ['selector', 'reason']) as { selector: Record<string, unknown>; reason?: unknown }
        const plan = { id: id('pln'), selector, reason, made_at: iso(), valid_until: iso(Date.now() + 300_000), revocation: null, reach: reach(selector) }
        plans.set(plan.id, { ...plan, seen: hit(selector).credentials.map(c => c.id) })
        return { status: 201, body: { plan } }
      }
      if (kind === 'plans') {
        const { seen: _, ...plan } = plans.get(String(wanted)) ?? missing()
        return { status: 200, body: { plan } }
      }
      if (kind === 'revocations') {
        const body = house.json(seen, ['selector', 'plan', 'reason', 'quarantine'])
        const once = String(seen.headers['idempotency-key'])
        const told = idempotent.get(once) ?? (revoke(body) as unknown as Record<string, unknown>)
        idempotent.set(once, told)
        return told as { status: number; body: unknown }
      }
      if (kind === 'receipts') {
        const found = [...house.revocations.values()].find(r => r.id === wanted || receipts.get(String(r.id)) === wanted)
        return { status: 200, body: await receiptOf(found ?? missing()) }
      }
      if (kind === 'credentials:find') {
        const { digest } = house.json(seen, ['digest'])
        const found = house.credentials.get(digests.get(String(digest)) ?? '')
        return { status: 200, body: { credential: found ?? house.refuse(404, 'not_found', 'no credential has this digest') } }
      }
      if (kind === 'signals') {
        const { reason } = house.json(seen, ['reason'])
        const signal = house.signals.get(String(wanted)) ?? missing()
        Object.assign(signal, { held: null, release_reason: reason, revocation: act === 'approve' ? id('rev') : null, handled_at: iso() })
        return { status: 200, body: { signal } }
      }
      if (method === 'POST') {
        const { selector, ...rest } = house.json(seen, ['selector', 'ttl_seconds', 'message'])
        return { status: 201, body: { quarantine: quarantine(selector, rest) } }
      }
      if (method === 'DELETE') {
        const { reason } = house.json(seen, ['reason'])
        const found = quarantines.get(String(wanted)) ?? missing()
        return {
          status: 200,
          body: { quarantine: Object.assign(found, { lifted_at: iso(), lifted_by: { kind: 'operator', id: 'opr_1' }, lift_reason: reason }) },
        }
      }
      if (wanted !== undefined) return { status: 200, body: { quarantine: quarantines.get(wanted) ?? missing() } }
      const inForce = (q: Record<string, unknown>) => q.lifted_at === null && Date.parse(String(q.until)) > Date.now()
      return { status: 200, body: { quarantines: [...quarantines.values()].filter(q => seen.query.all === 'true' || inForce(q)) } }
    },
  }
  await newKeys()
  return responder
}
