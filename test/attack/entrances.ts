/** Owns the doors of the HTTP API that take a token, and what every attack on one of them is compared with. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import supertest, { type Response } from 'supertest'
import { expect } from 'vitest'
import type { AuditKind } from '../../src/domain/audit.js'
import { type Caller, caller, EXCHANGE, type Held, ID_TOKEN, JWT_BEARER } from '../caller.js'
import { GITHUB, type House, makeHouse, ORDERS, SERVER } from '../house.js'
import { evidenceOf, jwkOf, party, threeParties, watchOutbound } from './forge.js'

export const CAPABILITY = 'demo/orders-ro'
export const parties = await threeParties()
export const [es, rs] = parties
const stranger = await party('ES256', 'stranger', () => es)
const dir = mkdtempSync(join(tmpdir(), 'curfew-entrances-'))
let requests = 0
export const newRequest = () => `entrance-${String(++requests).padStart(6, '0')}`

export function keySet(name: string, keys: readonly object[]): { file: string } {
  writeFileSync(join(dir, name), JSON.stringify({ keys }))
  return { file: join(dir, name) }
}
export const issuer = (name: string, url: string, keys: object, algs: string[], more: object = {}) => ({
  name,
  kind: 'oidc',
  profile: 'generic',
  issuer: url,
  keys,
  algs,
  ...more,
})
/** The issuers of house.ts, three of every algorithm, and those that T08, T29 and the trap are about. */
export const issuers = (known = false) => [
  { name: 'github', kind: 'oidc', profile: 'github', issuer: GITHUB, keys: { file: 'github.jwks' }, algs: ['RS256'], pin: { repository_owner_id: ['123456'] } },
  { name: 'agents', kind: 'registered', agents: [{ name: 'reporter', owner: '@data', key: { file: 'agent.jwk' } }] },
  ...parties.map(p => issuer(p.name, p.issuer, keySet(p.name, [jwkOf(p)]), [p.alg])),
  issuer('off', 'https://off.example', keySet('off', [jwkOf(es)]), ['ES256'], { enabled: known }),
  ...(known ? [issuer('gone', 'https://gone.example', keySet('gone', [jwkOf(es)]), ['ES256'])] : []),
  issuer('twice', 'https://twice.example', keySet('twice', [jwkOf(es), jwkOf(stranger, es.kid)]), ['ES256']),
  { name: 'mesh', kind: 'spiffe', trustDomain: 'mesh.example', bundle: keySet('mesh', [{ ...jwkOf(es), use: 'jwt-svid' }]) },
  issuer('two', 'https://two.example', keySet('two', [jwkOf(es), jwkOf(stranger, 'es-2')]), ['ES256']),
  issuer('away', 'https://away.example', { url: 'http://localhost:9/keys' }, ['ES256'], { internal: true }),
]
/** The rule must say whose word it believes, and may name registered issuers only. */
const policies = (names: readonly string[]) =>
  [
    ...names.map(n => [n, `context has oidc && context.oidc.claims has sub && context.oidc.claims.sub == "job-7"`]),
    ['github', 'context has github && context.github.repository_id == "456789"'],
    ['mesh', 'context has spiffe && context.spiffe.path == "/ci"'],
    ['agents', 'context has registered && context.registered.agent == "reporter"'],
  ]
    .map(
      ([n, when]) =>
        `@id("${n}") permit (principal, action == Action::"issue", resource == Capability::"${CAPABILITY}") when { context.issuer == "${n}" && ${when} };`,
    )
    .join('\n')
export const build = (known = false, more: object[] = []) =>
  makeHouse({ policies: policies(['es', 'rs', 'ed', 'two', 'off', ...(known ? ['gone'] : [])]), more: { issuers: [...issuers(known), ...more] } })

export const held = new Map<string, Held>()
export const trap = watchOutbound()
let house: House
let ci: Caller
export const http = (at = house) => supertest(at.http)

export async function openDoors(): Promise<{ house: House; ci: Caller }> {
  const built = await build()
  // One listener for all: supertest would open and close one for every request.
  house = { ...built, http: createServer(built.http).listen(0, '127.0.0.1') as never }
  ci = await caller(house)
  for (const p of parties) held.set(p.name, await ci.opened({ subject_token: evidenceOf(p, house.now()) }))
  held.set('agents', await ci.opened({ subject_token: await house.agentAssertion() }))
  return { house, ci }
}
export async function closeDoors(): Promise<void> {
  trap.stop()
  ;(house?.http as unknown as Server | undefined)?.close()
  await house?.close()
  rmSync(dir, { recursive: true, force: true })
}

export interface Refusal {
  readonly code: string
  readonly reason: string
  readonly kind: AuditKind
}
export const refusal = (
  code: string,
  reason: string,
  kind: AuditKind = code === 'attestation_refused' ? 'attestation.refused' : 'request.refused',
): Refusal => ({ code, reason, kind })
export const byProof = (reason: string) => refusal('proof_refused', reason, 'proof.refused')
const STATUS: Record<string, number> = { malformed: 400, attestation_refused: 401, proof_refused: 401, capability_unknown: 422, forbidden: 403 }
const WORD: Record<string, string> = { proof_refused: 'invalid_dpop_proof', capability_unknown: 'invalid_authorization_details' }

/** One request that must be refused. */
export interface Sent {
  readonly what: string
  readonly send: (requestId: string) => Promise<Response>
  readonly oauth?: true
  readonly refused: Refusal
  /** The word of RFC 6749 where it is not the code's usual one. */
  readonly word?: string
  readonly status?: number
}
/** Sent under names of their own: what each caller hears, the one row that the audit log has of it, and that nothing left for it. */
export async function allRefused(list: readonly Sent[], at = house): Promise<void> {
  const before = Number((await at.app.store.audit.list({ limit: 1 }))[0]?.id ?? 0)
  const seen = trap.seen().length
  const sent = await Promise.all(
    list.map(async s => {
      const id = newRequest()
      return { ...s, id, answer: await s.send(id) }
    }),
  )
  const rows = (await at.app.store.audit.list({ limit: list.length + 10 })).filter(r => Number(r.id) > before)
  const told = sent.map(({ what, answer: { status, body }, id }) => ({
    what,
    status,
    error: body.error,
    code: body.code,
    reason: body.reason,
    rows: rows.filter(r => r.requestId === id).map(r => `${r.kind} ${r.reason}`),
  }))
  expect(told).toEqual(
    sent.map(({ what, oauth, word, status, refused: { code, reason, kind } }) => ({
      what,
      status: status ?? (oauth ? 400 : STATUS[code]),
      error: oauth ? (word ?? WORD[code] ?? 'invalid_request') : undefined,
      code,
      reason,
      rows: [`${kind} ${reason}`],
    })),
  )
  expect(rows).toHaveLength(list.length)
  expect(trap.seen().slice(seen)).toEqual([])
}
/** Answered like nothing at all, and so no row either (RFC 7662 section 2.2, RFC 7009 section 2.2). */
export async function allSilent(send: () => Promise<Response>[], body: object): Promise<void> {
  const before = (await house.app.store.audit.list({ limit: 1 }))[0]?.id
  const seen = trap.seen().length
  for (const answer of await Promise.all(send())) expect([answer.status, answer.body]).toEqual([200, body])
  expect((await house.app.store.audit.list({ limit: 1 }))[0]?.id).toBe(before)
  expect(trap.seen().slice(seen)).toEqual([])
}

/** The doors that take evidence. `ok` is the twin's status. */
export interface Door {
  readonly name: string
  readonly ok: number
  readonly oauth?: true
  /** For bad evidence, where it is not the usual one. */
  readonly word?: string
  send(token: string, by: string, requestId?: string, capability?: string, at?: { house: House; ci: Caller }): Promise<Response>
}
export const DOORS: readonly Door[] = [
  {
    name: 'POST /v1/tasks',
    ok: 201,
    send: async (token, _by, id = newRequest(), capability = CAPABILITY, at = { house, ci }) =>
      http(at.house)
        .post('/v1/tasks')
        .set('DPoP', await at.ci.proof('POST', '/v1/tasks'))
        .set('X-Request-ID', id)
        .send({ subject_token: token, purpose: 'report', capabilities: [capability] }),
  },
  {
    name: 'POST /oauth2/token',
    ok: 200,
    oauth: true,
    send: async (token, _by, id = newRequest(), capability = CAPABILITY, at = { house, ci }) => {
      const details = JSON.stringify([{ type: `${SERVER}/rar/task/v1`, purpose: 'report', capabilities: [capability] }])
      const form = {
        grant_type: EXCHANGE,
        subject_token_type: ID_TOKEN,
        subject_token: token,
        authorization_details: details,
        ...(capability === CAPABILITY ? { resource: ORDERS } : {}),
      }
      return http(at.house)
        .post('/oauth2/token')
        .type('form')
        .set('DPoP', await at.ci.proof('POST', '/oauth2/token'))
        .set('X-Request-ID', id)
        .send(form)
    },
  },
  {
    name: 'POST /v1/decisions:explain',
    ok: 200,
    send: async (token, _by, id = newRequest(), capability = CAPABILITY, at = { house, ci }) =>
      http(at.house).post('/v1/decisions:explain').set('X-Request-ID', id).send({ subject_token: token, capability }),
  },
  {
    name: 'POST /v1/tasks/{id}/credentials',
    ok: 201,
    send: async (token, by, id = newRequest(), capability = CAPABILITY) =>
      ci.credential(held.get(by) as Held, capability, { subject_token: token }, { 'X-Request-ID': id }),
  },
  {
    name: 'POST /oauth2/token, as an assertion',
    ok: 200,
    oauth: true,
    word: 'invalid_grant',
    send: async (token, _by, id = newRequest(), capability = CAPABILITY, at = { house, ci }) => {
      const details = JSON.stringify([{ type: `${SERVER}/rar/task/v1`, purpose: 'report', capabilities: [capability] }])
      return http(at.house)
        .post('/oauth2/token')
        .type('form')
        .set('DPoP', await at.ci.proof('POST', '/oauth2/token'))
        .set('X-Request-ID', id)
        .send({ grant_type: JWT_BEARER, assertion: token, authorization_details: details })
    },
  },
]
export const [tasksDoor, tokenDoor, explainDoor, renewDoor] = DOORS as [Door, Door, Door, Door]
export const at = (door: Door, token: string, by: string, refused: Refusal): Sent => ({
  what: `${door.name} ${by}`,
  refused,
  send: id => door.send(token, by, id),
  ...(door.oauth ? { oauth: true as const } : {}),
  ...(door.word && refused.code === 'attestation_refused' ? { word: door.word } : {}),
})
export const accepted = async (door: Door, token: string, by: string) =>
  expect([door.name, by, (await door.send(token, by)).status]).toEqual([door.name, by, door.ok])
