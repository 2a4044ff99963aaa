import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { AuditKind } from '../../src/domain/audit.js'
import type { Role } from '../../src/domain/operator.js'
import type { AttestorKind } from '../../src/domain/workload.js'
import { type Caller, type Held, introspect } from '../caller.js'
import { type House, ORDERS_SECRET } from '../house.js'
import {
  accepted,
  allRefused,
  allSilent,
  at,
  byProof,
  CAPABILITY,
  closeDoors,
  DOORS,
  es,
  held,
  http,
  newRequest,
  openDoors,
  refusal,
  type Sent,
  tasksDoor,
  trap,
} from './entrances.js'
import { evidenceOf } from './forge.js'

/**
 * A token at the door of another class; operators; signal sources; what the audit log has of all (security.md 5): exact status, code and
 * reason, one audit row, nothing sent out; and a twin that succeeds.
 */
let house: House
let ci: Caller

beforeAll(async () => {
  ;({ house, ci } = await openDoors())
})
afterAll(closeDoors)

describe('T69 a token of one class at the door of another', () => {
  const CLASSES = ['evidence', 'assertion', 'task', 'access', 'proof', 'operator', 'server', 'introspection', 'mac'] as const
  const made = new Map<string, string>()
  beforeAll(async () => {
    const task = held.get('es') as Held
    made.set('task', task.token)
    made.set('access', (await ci.credential(task, CAPABILITY)).body.secret.token)
    made.set('operator', await house.operator('responder'))
    made.set('server', ORDERS_SECRET)
    made.set('mac', 'a'.repeat(64))
    const answer = await http()
      .post('/oauth2/introspect')
      .auth('orders', ORDERS_SECRET)
      .set('Accept', 'application/token-introspection+jwt')
      .type('form')
      .send({ token: made.get('access') })
    made.set('introspection', answer.text)
  })
  const token = async (of: (typeof CLASSES)[number]) =>
    of === 'evidence'
      ? evidenceOf(es, house.now())
      : of === 'assertion'
        ? house.agentAssertion()
        : of === 'proof'
          ? ci.proof('POST', '/v1/tasks')
          : (made.get(of) as string)
  const shapeless = (of: string) => ['operator', 'server', 'mac'].includes(of)
  const nobody = { selector: { identity: 'es:sub=nobody' } }

  it.each(CLASSES)('%s', async of => {
    const sent: Sent[] = []
    if (of !== 'evidence' && of !== 'assertion')
      for (const door of DOORS) sent.push(at(door, await token(of), 'es', refusal('attestation_refused', 'issuer_unknown')))
    const { task } = held.get('es') as Held
    const shown = await token(of)
    const reason = shapeless(of) ? 'malformed_token' : of === 'proof' ? 'header_refused' : 'type_refused'
    const holder = (verb: string) => (id: string) =>
      ci.as({ task, token: shown }, 'post', `/v1/tasks/${task}/${verb}`, verb === 'credentials' ? { capability: CAPABILITY } : {}, { 'X-Request-ID': id })
    if (of !== 'task')
      for (const verb of ['credentials', 'heartbeat', 'complete', 'cancel'])
        sent.push({ what: verb, refused: refusal('attestation_refused', reason), send: holder(verb) })
    const operators = (id: string) => http().post('/v1/revocations').set('Authorization', `Bearer ${shown}`).set('X-Request-ID', id).send(nobody)
    if (of !== 'operator')
      sent.push({ what: 'operator', refused: refusal('attestation_refused', 'operator_refused', 'operator.refused'), send: async id => operators(id) })
    const fresh = evidenceOf(es, house.now())
    const proof = (id: string) =>
      http()
        .post('/v1/tasks')
        .set('DPoP', shown)
        .set('X-Request-ID', id)
        .send({ subject_token: fresh, purpose: 'report', capabilities: [CAPABILITY] })
    if (of !== 'proof') sent.push({ what: 'proof', refused: byProof(shapeless(of) ? 'malformed_token' : 'type_refused'), send: async id => proof(id) })
    const server = (id: string) =>
      http()
        .post('/oauth2/introspect')
        .auth('orders', shown)
        .set('X-Request-ID', id)
        .type('form')
        .send({ token: made.get('access') })
    if (of !== 'server')
      sent.push({
        what: 'server',
        oauth: true,
        status: 401,
        word: 'invalid_client',
        refused: refusal('attestation_refused', 'client_unauthenticated'),
        send: async id => server(id),
      })
    const signal = house.signal({
      id: 'x',
      type: 'token.leaked',
      severity: 'low',
      subject: { identity: 'github:repository_id=1' },
      occurred_at: '2026-01-01T00:00:00Z',
    })
    for (const [what, signature, why] of [
      ['signal', shown, 'signature_malformed'],
      ['signal by MAC', `t=${house.now()},v1=${shown}`, of === 'mac' ? 'signature_invalid' : 'signature_malformed'],
    ] as const)
      sent.push({
        what,
        refused: refusal('attestation_refused', why),
        send: async id =>
          http()
            .post('/v1/signals')
            .set({ ...signal.headers, 'Curfew-Signature': signature, 'X-Request-ID': id })
            .send(signal.text),
      })
    await allRefused(sent)
    if (of !== 'access') {
      await allSilent(() => [introspect(house, shown)], { active: false })
      const give = (id: string) => http().post('/oauth2/revoke').set('X-Request-ID', id).type('form').send({ token: shown })
      if (of !== 'task') await allSilent(() => [give(newRequest())], {})
      else await allRefused([{ what: 'give back', oauth: true, refused: byProof('proof_missing'), send: async id => give(id) }])
    }
    // The twin: the door of its own class opens to it.
    const own = {
      task: () => holder('heartbeat')(newRequest()),
      access: () => introspect(house, shown),
      proof: () => proof(newRequest()),
      operator: () => operators(newRequest()),
      server: () => server(newRequest()),
    }
    if (of === 'evidence' || of === 'assertion') await accepted(tasksDoor, shown, of)
    else if (of in own) expect((await own[of as keyof typeof own]()).status).toBeLessThan(300)
    if (of === 'access') expect((await introspect(house, shown)).body.active).toBe(true)
    if (of === 'mac') expect((await http().post('/v1/signals').set(signal.headers).send(signal.text)).status).toBe(202)
  })
})

describe('operators and signal sources', () => {
  const nobody = { selector: { identity: 'es:sub=nobody' } }
  const ask = (authorization: string | string[] | null, id = newRequest()) => {
    const request = http().post('/v1/revocations').set('X-Request-ID', id)
    if (authorization !== null) request.set('Authorization', authorization as string)
    return request.send(nobody)
  }
  const flip = (t: string) => t.slice(0, -1) + (t.endsWith('0') ? '1' : '0')
  type OperatorCase = readonly [id: string, spoil: (t: string) => string | string[] | null, reason: string, code?: string]
  it.each<OperatorCase>([
    ['T41 no token', () => null, 'credentials_missing'],
    ['T24 another last character', t => `Bearer ${flip(t)}`, 'operator_refused'],
    ['T24 upper case', t => `Bearer ${t.toUpperCase()}`, 'operator_refused'],
    ['T24 padding', t => `Bearer ${t}=`, 'operator_refused'],
    ['T24 a part of it', t => `Bearer ${t.slice(0, -6)}`, 'operator_refused'],
    ['T24 white space inside', t => `Bearer ${t.slice(0, 9)} ${t.slice(9)}`, 'authorization_malformed'],
    ['T12 two of them, joined', t => `Bearer ${t},${t}`, 'authorization_malformed'],
    ['H23 two headers', t => [`Bearer ${t}`, `Bearer ${t}`], 'header_repeated', 'malformed'],
    ['T69 as the token of a holder', t => `DPoP ${t}`, 'credentials_missing'],
    ['T69 as a password', t => `Basic ${Buffer.from(`orders:${t}`).toString('base64')}`, 'credentials_missing'],
    ['T01 none', () => 'Bearer none', 'operator_refused'],
  ])('POST /v1/revocations: %s', async (...given) => {
    const [, spoil, reason, code = 'attestation_refused'] = given as unknown as OperatorCase
    const token = await house.operator('responder')
    const kind = reason === 'operator_refused' ? 'operator.refused' : undefined
    await allRefused([{ what: 'operator', refused: refusal(code, reason, kind), send: async id => ask(spoil(token), id) }])
    expect((await ask(`Bearer ${token}`)).status).toBe(202)
  })
  it('T63 a role is one of three words, and only two of them may revoke', async () => {
    for (const role of ['root', 'Admin', 'RESPONDER', 'admin ', '\u0430dmin', '__proto__']) await expect(house.operator(role as Role)).rejects.toThrow()
    const auditor = await house.operator('auditor')
    await allRefused([{ what: 'auditor', refused: refusal('forbidden', 'role_insufficient'), send: async id => ask(`Bearer ${auditor}`, id) }])
    for (const role of ['responder', 'admin'] as const) expect((await ask(`Bearer ${await house.operator(role)}`)).status).toBe(202)
  })
  it('T29 an operator who was disabled', async () => {
    const token = await house.operator('admin')
    expect((await ask(`Bearer ${token}`)).status).toBe(202)
    const [last] = (await house.app.store.operators.list()).slice(-1)
    await house.app.store.operators.disable(last?.id as never, { requestId: null, actor: { kind: 'broker', id: 'test' } })
    await allRefused([
      { what: 'disabled', refused: refusal('attestation_refused', 'operator_refused', 'operator.refused'), send: async id => ask(`Bearer ${token}`, id) },
    ])
  })
  const event = (id = newRequest()) => ({
    id,
    type: 'token.leaked',
    severity: 'low',
    subject: { identity: 'github:repository_id=1' },
    occurred_at: '2026-01-01T00:00:00Z',
  })
  it.each<readonly [string, string, (h: Record<string, string>) => Record<string, string | string[]>]>([
    ['T01 no signature', 'signature_malformed', () => ({ 'Curfew-Signature': '' })],
    ['T01 an empty MAC', 'signature_malformed', h => ({ 'Curfew-Signature': (h['Curfew-Signature'] as string).replace(/v1=.*/, 'v1=') })],
    ['T01 alg none', 'signature_malformed', h => ({ 'Curfew-Signature': (h['Curfew-Signature'] as string).replace(/v1=.*/, 'none=') })],
    ['T12 two MACs', 'signature_malformed', h => ({ 'Curfew-Signature': `${h['Curfew-Signature']},v1=${'0'.repeat(64)}` })],
    ['T18 a time that is none', 'signature_malformed', h => ({ 'Curfew-Signature': (h['Curfew-Signature'] as string).replace(/t=\d+/, 't=1e9') })],
    ['T19 another time', 'signature_invalid', h => ({ 'Curfew-Signature': (h['Curfew-Signature'] as string).replace(/t=\d+/, `t=${house.now() + 9}`) })],
    [
      'T24 the MAC in upper case',
      'signature_malformed',
      h => ({ 'Curfew-Signature': (h['Curfew-Signature'] as string).replace(/v1=.*/, m => m.toUpperCase()) }),
    ],
    ['T08 another source', 'source_unknown', () => ({ 'Curfew-Source': 'EDR' })],
    ['T10 a MAC by another secret', 'signature_invalid', () => house.signal({}, { secret: ORDERS_SECRET }).headers],
    ['T43 signed long ago', 'signature_old', () => ({})],
  ])('POST /v1/signals: %s', async (id, reason, spoil) => {
    const given = house.signal(event(), id.includes('long ago') ? { at: house.now() - 301 } : {})
    const send = async (more: Record<string, string | string[]>, name: string, s = given) =>
      http()
        .post('/v1/signals')
        .set({ ...s.headers, ...more, 'X-Request-ID': name } as Record<string, string>)
        .send(s.text)
    await allRefused([{ what: 'signal', refused: refusal('attestation_refused', reason), send: name => send(spoil(given.headers), name) }])
    expect((await send({}, newRequest(), id.includes('long ago') ? house.signal(event()) : given)).status).toBe(202)
  })
})

describe('T68 what was accepted stands in the audit log', () => {
  type Accepted = AttestorKind | 'task' | 'access' | 'operator' | 'signal'
  const ALL = { oidc: 0, spiffe: 0, registered: 0, task: 0, access: 0, operator: 0, signal: 0 } satisfies Record<Accepted, 0>
  /** Shows one token of that class; answers what its row must say. */
  async function accept(of: Accepted, id: string): Promise<{ status: number; kind: AuditKind; actor: object }> {
    const workload = async (token: string, identity: string) => ({
      status: (await tasksDoor.send(token, '', id)).status,
      kind: 'task.opened' as const,
      actor: { kind: 'workload', id: identity },
    })
    const mine = () => ci.opened({ subject_token: evidenceOf(es, house.now()) })
    switch (of) {
      case 'oidc':
        return workload(evidenceOf(es, house.now()), 'es:sub=job-7')
      case 'registered':
        return workload(await house.agentAssertion(), 'agents:agent=reporter')
      case 'spiffe':
        return workload(evidenceOf(es, house.now(), { iss: undefined, sub: 'spiffe://mesh.example/ci' }), 'spiffe://mesh.example/ci')
      case 'task': {
        const { task, token } = await mine()
        const { status } = await ci.as({ task, token }, 'post', `/v1/tasks/${task}/complete`, {}, { 'X-Request-ID': id })
        return { status, kind: 'task.ended', actor: { kind: 'holder', id: task } }
      }
      case 'access': {
        const of = await mine()
        const { token } = (await ci.credential(of, CAPABILITY)).body.secret
        const { status } = await http()
          .post('/oauth2/revoke')
          .type('form')
          .set('DPoP', await ci.proof('POST', '/oauth2/revoke', token))
          .set('X-Request-ID', id)
          .send({ token })
        return { status, kind: 'revocation.committed', actor: { kind: 'holder', id: of.task } }
      }
      case 'operator': {
        const request = http()
          .post('/v1/revocations')
          .set('Authorization', `Bearer ${await house.operator('admin')}`)
          .set('X-Request-ID', id)
        return { status: (await request.send({ selector: { identity: 'es:sub=nobody' } })).status, kind: 'revocation.committed', actor: { kind: 'operator' } }
      }
      case 'signal': {
        const s = house.signal({
          id,
          type: 'token.leaked',
          severity: 'low',
          subject: { identity: 'github:repository_id=1' },
          occurred_at: '2026-01-01T00:00:00Z',
        })
        return {
          status: (
            await http()
              .post('/v1/signals')
              .set({ ...s.headers, 'X-Request-ID': id })
              .send(s.text)
          ).status,
          kind: 'signal.received',
          actor: { kind: 'signal', id: 'edr' },
        }
      }
      default:
        return of satisfies never
    }
  }
  it.each(Object.keys(ALL) as Accepted[])('%s', async of => {
    const id = newRequest()
    const { status, kind, actor } = await accept(of, id)
    expect(status).toBeLessThan(300)
    const rows = (await house.app.store.audit.list({ limit: 30 })).filter(r => r.requestId === id && r.kind === kind)
    expect(rows.map(r => r.actor)).toEqual([expect.objectContaining(actor)])
  })
  it('and the trap is none that sees nothing: an issuer whose keys are elsewhere is asked for them', async () => {
    const before = trap.seen().length
    const token = evidenceOf({ ...es, issuer: 'https://away.example' }, house.now())
    expect((await tasksDoor.send(token, 'es')).status).toBe(503)
    expect(trap.seen().slice(before)).toEqual(expect.arrayContaining(['lookup', expect.stringContaining('http://localhost:9')]))
  })
})
