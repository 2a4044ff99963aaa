import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import fc from 'fast-check'
import { decodeJwt, type JWTPayload, SignJWT } from 'jose'
import supertest, { type Response, type Test } from 'supertest'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { type AdmittedKey, admitKeys } from '../../src/domain/jwk.js'
import { verifyJws } from '../../src/domain/jws.js'
import { newKeyPair } from '../../src/domain/key-pair.js'
import { SELECTOR_KINDS } from '../../src/domain/revocation.js'
import { reloadPolicies } from '../../src/serve.js'
import { type Caller, caller, type Held, ID_TOKEN } from '../caller.js'
import { GITHUB, type House, keyedIssuer, makeHouse, SERVER } from '../house.js'

/**
 * T32 speaks of rules that hold regular expressions. Ours hold none: a text is compared byte for byte, and Cedar's `like` knows one
 * sign, `*`. So an alternative that is not anchored, a dot that is not escaped, `$` before a line end and a flag that folds case cannot
 * be written; what is left is shown here: those signs are letters like any other, and `*` is admitted where it cannot cross : or /.
 */
const on = (id: string, capability: string, conditions: string) =>
  `@id("${id}") permit (principal, action, resource == Capability::"${capability}") when { ${conditions} };\n`
const HUB = 'context.issuer == "github" && context has github && context.github.repository_id == "456789"'
const POD = 'context.issuer == "cluster" && context has kubernetes && context.kubernetes.serviceaccount_uid == "a-uid"'
const ACCOUNT = `${POD} && context.kubernetes.namespace == "ci" && context.kubernetes.serviceaccount`
/** Refs that look like patterns, each with those that the pattern would have let in. */
const LETTERS = [
  ['either', 'refs/heads/a|b', ['refs/heads/a', 'b', 'refs/heads/a|bc']],
  ['dot', 'refs/heads/v1.0', ['refs/heads/v1x0', 'refs/heads/v1.0.0']],
  ['anchors', '^refs/heads/main$', ['refs/heads/main', 'x^refs/heads/main$']],
  ['star', 'refs/heads/*', ['refs/heads/main', 'refs/heads/', 'refs/heads/**']],
  ['keep', 'refs/heads/Keep', ['refs/heads/keep', 'refs/heads/KEEP', 'refs/heads/Keep ']],
] as const
const POLICIES = [
  ...LETTERS.map(([id, ref]) => on(id, `p/${id}`, `${HUB} && context.github.ref == "${ref}"`)),
  on('account', 'p/account', `${ACCOUNT} like "runner-*"`),
  on('family', 'p/family', `${POD} && context.kubernetes.namespace like "team-a-*"`),
  on('slow', 'p/slow', `${ACCOUNT} like "r${'*r'.repeat(200)}*x"`),
  on('told', 'p/told', `${HUB} && context.purpose == "caf\u00e9" && context.labels.contains("team=ops")`),
  on('fresh', 'p/fresh', `${HUB} && context.evidence_age <= 60`),
  on('anyjob', 'p/jobs', 'context.issuer == "ci" && context has oidc && context.oidc.claims has project && context.oidc.claims.project == "42"'),
].join('')
const at = { cluster: 'https://cluster.example', ci: 'https://ci.example' }
const ISSUERS = [
  // Nothing in the configuration of an issuer is a pattern either.
  { name: 'github', issuer: GITHUB, pin: { repository_owner_id: ['123456', '12345.', '.*', '*'] }, allowEvents: ['*', '.*', 'pull_request_*'] },
  { name: 'cluster', profile: 'kubernetes', issuer: at.cluster },
  { name: 'ci', profile: 'generic', issuer: at.ci, attributeClaims: ['project'] },
].map(more => ({ kind: 'oidc', profile: 'github', keys: { file: 'github.jwks' }, ...more }))
const AGENTS = { name: 'agents', kind: 'registered', agents: [{ name: 'reporter', owner: '@data', key: { file: 'agent.jwk' } }] }

let house: House
let me: Caller
let operator: string
let held: Held
const http = () => supertest(house.http)
const candidate = () => join(house.app.config.policies.dir, 'candidate.cedar')

beforeAll(async () => {
  const named = [...POLICIES.matchAll(/Capability::"([^"]+)"/g)].map(m => m[1])
  const capabilities = named.map(name => ({ name, summary: name, engine: 'jwt', audience: 'orders', scopes: ['x'], intent: 'read' }))
  house = await makeHouse({ policies: POLICIES, capabilities, more: { issuers: [...ISSUERS, AGENTS] } })
  me = await caller(house)
  operator = `Bearer ${await house.operator('admin')}`
  held = await me.opened({ subject_token: await job('job'), capabilities: ['p/jobs'] })
})
afterAll(() => house?.close())

const times = () => ({ iat: house.now(), exp: house.now() + 300, jti: randomBytes(9).toString('hex') })
const pod = (namespace: string, name: string) => {
  const claims = { sub: `system:serviceaccount:${namespace}:${name}`, 'kubernetes.io': { namespace, serviceaccount: { name, uid: 'a-uid' } } }
  return house.github.mint({ iss: at.cluster, aud: SERVER, ...claims, ...times() })
}
const job = (sub: string, more: JWTPayload = {}) => house.github.mint({ iss: at.ci, aud: SERVER, sub, project: '42', ...times(), ...more })
const push = (ref: string) => house.evidence({ ref })
const get = (path: string, query: object = {}): Test => http().get(path).query(query).set('Authorization', operator)
const post = (path: string, body: object): Test => http().post(path).set('Authorization', operator).send(body)
const ask = (subject_token: string, capability: string, more: object) => post('/v1/decisions:explain', { subject_token, capability, ...more })
const end = (selector: object, more: object = {}) => post('/v1/revocations', { selector, ...more })
const open = (subject_token: string, capability: string, more: object = {}) => me.open({ subject_token, capabilities: [capability], ...more })
const answerOf = async (evidence: string, capability: string, more: object = {}) => {
  const opened = await open(evidence, capability, more)
  return opened.status === 201 ? 'granted' : `${opened.status} ${opened.body.reason}`
}

async function rowsOf<T>(act: () => Promise<T>): Promise<{ answer: T; rows: Awaited<ReturnType<House['audits']>> }> {
  const before = Number((await house.audits())[0]?.id ?? 0)
  const answer = await act()
  return { answer, rows: (await house.audits()).filter(r => Number(r.id) > before).reverse() }
}
/** One refusal, told to the caller and in one row. */
async function refused(act: () => PromiseLike<Response>, told: { status: number; reason: string; field: string }, kind: string): Promise<void> {
  const { answer, rows } = await rowsOf(async () => act())
  expect([answer.status, answer.body]).toMatchObject([told.status, { reason: told.reason, field: told.field }])
  expect(rows).toMatchObject([{ kind, reason: told.reason, data: { field: told.field } }])
}

const CROSSES = /"like" on context\.[\w.]+: a wildcard there crosses \/ and :/
const optional = (name: string) => `${HUB} && context.github has ${name} && context.github.${name}`
describe('T32 patterns', () => {
  it.each<[string, string, string, string, RegExp]>([
    ...['ref', 'event_name', 'repository_owner_id'].map(n => [n, `${HUB} && context.github.${n}`, 'like "x*"', '== "x"', CROSSES] as never),
    ...['workflow_ref', 'job_workflow_ref', 'environment', 'repository'].map(n => [n, optional(n), 'like "x*"', '== "x"', CROSSES] as never),
    ["the caller's own words", `${HUB} && context.purpose`, 'like "deploy*"', '== "deploy"', CROSSES],
    ['a pattern without a wildcard', `${HUB} && context.github.ref`, 'like "refs/heads/main"', '== "refs/heads/main"', CROSSES],
    ['a wildcard at the front', ACCOUNT, 'like "*-x"', 'like "x-*"', /no fixed beginning/],
    ['a line end', `${HUB} && context.github.ref`, '== "refs/heads/main\\n"', '== "refs/heads/main"', /invisible/],
    ['a line end in a pattern', ACCOUNT, 'like "ci\\n*"', 'like "ci-*"', /invisible/],
    ['the Kelvin sign', `${HUB} && context.github.ref`, '== "refs/heads/\u212aeep"', '== "refs/heads/Keep"', /decomposed/],
    ['the Kelvin sign in a pattern', ACCOUNT, 'like "\u212a*"', 'like "K*"', /decomposed/],
    ['nesting without end', HUB, `&& ${'!('.repeat(60)}context.proof${')'.repeat(60)}`, '&& !(!context.proof)', /nested/],
  ])('%s: refused when it is loaded, and its twin is not', async (_name, text, bad, good, says) => {
    const { policy } = house.app.deps
    const before = policy.digest
    writeFileSync(candidate(), on('candidate', 'p/slow', `${text} ${bad}`))
    await expect(policy.reload()).rejects.toThrow(says)
    expect((await rowsOf(() => reloadPolicies(house.app))).rows).toMatchObject([{ kind: 'policy.refused', reason: 'policies_refused', subject: before }])
    writeFileSync(candidate(), on('candidate', 'p/slow', `${text} ${good}`))
    await expect(policy.reload()).resolves.not.toBe(before)
  })
  it.each(LETTERS)('the signs of a pattern are letters: %s is granted to %s alone', async (id, right, wrong) => {
    const capability = `p/${id}`
    expect(await answerOf(await push(right), capability)).toBe('granted')
    for (const ref of wrong) {
      const { answer, rows } = await rowsOf(async () => open(await push(ref), capability))
      expect(answer.body).toMatchObject({ status: 403, code: 'policy_denied', failed: [{ claim: 'ref', actual: ref }] })
      expect(rows).toMatchObject([{ kind: 'decision.denied', reason: 'no_permit', subject: answer.body.decision_id }])
    }
    for (const sign of ['\n', '\r\n', '\u2028', '\u0000', '\u212a', '\u017f']) {
      const told = { status: 401, reason: 'claim_invalid', field: 'ref' }
      await refused(async () => open(await push(right + sign), capability), told, 'attestation.refused')
    }
  })
  it('pins and events of an issuer are no patterns', async () => {
    const ask = async (claims: JWTPayload) => answerOf(await house.evidence({ ref: 'refs/heads/v1.0', ...claims }), 'p/dot')
    expect(await ask({})).toBe('granted')
    for (const repository_owner_id of ['123457', '1234567', '']) expect(await ask({ repository_owner_id })).toBe('401 tenant_refused')
    for (const event_name of ['pull_request_target', 'issue_comment']) expect(await ask({ event_name })).toBe('401 event_refused')
  })
  it.each([':', '/'])('a wildcard ends where the name ends, and never crosses %s, whatever an issuer calls its accounts', async sign => {
    expect(await answerOf(await pod('ci', 'runner-7'), 'p/account')).toBe('granted')
    expect(await answerOf(await pod('team-a-x', 'any'), 'p/family')).toBe('granted')
    const refusal = /^(401 claim_invalid|403 no_permit)$/
    for (const account of ['runner', 'xrunner-7', 'Runner-7', `runner${sign}7`, `runner-7${sign}admin`, `runner-${sign}`])
      expect([account, await answerOf(await pod('ci', account), 'p/account')]).toEqual([account, expect.stringMatching(refusal)])
    expect(await answerOf(await pod(`team-a-x${sign}y`, 'any'), 'p/family')).toMatch(refusal)
  })
  it('two hundred wildcards, which cannot run away, are decided in no time', async () => {
    expect(await answerOf(await pod('ci', `${'r'.repeat(220)}x`), 'p/slow')).toBe('granted')
    const started = performance.now()
    for (let i = 0; i < 20; i++) expect(await answerOf(await pod('ci', 'r'.repeat(225 - i)), 'p/slow')).toBe('403 no_permit')
    expect((performance.now() - started) / 20).toBeLessThan(500)
  })
})

describe('T47 what is kept', () => {
  /** Caches of keys live by the process's own clock, which the store's time does not follow. */
  const now = performance.now.bind(performance)
  const later = async (seconds: number) => {
    vi.spyOn(performance, 'now').mockImplementation(() => now() + seconds * 1000)
    await house.app.store.ping()
  }
  it('a key called like another but for its last sign, its length or its case is another key; one asked for in vain or taken out is no memory', async () => {
    const names = ['gh-1', 'gh-10', 'gh-', 'gh-2', 'GH-1', 'gh-1 ']
    const keys = [house.github, ...(await Promise.all(names.slice(1).map(name => keyedIssuer('RS256', name))))]
    const claims = async () => ({ ...decodeJwt(await push('refs/heads/v1.0')), jti: randomBytes(9).toString('hex') })
    const publish = (some: typeof keys) =>
      writeFileSync(join(dirname(house.app.config.policies.dir), 'github.jwks'), JSON.stringify({ keys: some.map(k => k.jwk) }))
    const answers = async () => Promise.all(keys.map(async key => answerOf(await key.mint(await claims()), 'p/dot')))
    const only = names.map((_, i) => (i === 0 ? 'granted' : '401 key_unknown'))
    expect(await answers()).toEqual(only)
    publish(keys)
    expect(await answers()).toEqual(only)
    await later(31)
    expect(await answers()).toEqual(names.map(() => 'granted'))
    for (const kid of names.filter(name => name !== 'gh-10'))
      expect(await answerOf(await (keys[1] as (typeof keys)[0]).mint(await claims(), { kid }), 'p/dot')).toBe('401 signature_invalid')
    publish(keys.slice(0, 1))
    await later(60)
    expect(await answers()).toEqual(only)
    await later(0)
  })
  it('imported keys that agree in half their bytes, or in a digest cut short, stay two keys', async () => {
    const one = await newKeyPair('ec', { namedCurve: 'P-256' })
    const jwk = one.publicKey.export({ format: 'jwk' })
    // The point's mirror: the same x, and a private key that anybody who has the one can compute.
    const p = 2n ** 256n - 2n ** 224n + 2n ** 192n + 2n ** 96n - 1n
    const y = (p - BigInt(`0x${Buffer.from(jwk.y as string, 'base64url').toString('hex')}`)).toString(16).padStart(64, '0')
    const mirror = { ...jwk, y: Buffer.from(y, 'hex').toString('base64url') }
    const admitted = (key: object) => admitKeys({ keys: [{ ...key, kid: 'k' }] }, { use: 'sig', algs: ['ES256'] })[0] as AdmittedKey
    const token = await new SignJWT({ a: 1 }).setProtectedHeader({ alg: 'ES256', kid: 'k' }).sign(one.privateKey)
    const verdict = async (key: object) => {
      const read = verifyJws(token, admitted(key), { algorithms: ['ES256'], types: [''] })
      return read.then(() => 'accepted').catch(e => e.facts.reason)
    }
    for (const key of [jwk, mirror, jwk, mirror]) expect(await verdict(key)).toBe(key === jwk ? 'accepted' : 'signature_invalid')
    const twins: Record<string, AdmittedKey[]> = {}
    for (let i = 0; i < 600; i++) {
      const key = admitted((await newKeyPair('ec', { namedCurve: 'P-256' })).publicKey.export({ format: 'jwk' }))
      twins[key.thumbprint.slice(0, 2)] = [...(twins[key.thumbprint.slice(0, 2)] ?? []), key]
    }
    expect(Object.values(twins).filter(same => same.length > 1).length).toBeGreaterThan(5)
    for (const same of Object.values(twins)) expect(new Set(await Promise.all(same.map(k => k.verifier('ES256')))).size).toBe(same.length)
  })
  it('an answer of policy is the answer to its own question: neither a yes nor a no is lent to another', async () => {
    const right = { purpose: 'caf\u00e9', labels: { team: 'ops' } }
    const wrong = [
      ...[{ team: 'op' }, { team: 'ops2' }, { tea: 'm=ops', x: 'team=ops' }, {}].map(labels => ({ ...right, labels })),
      ...['caf', 'CAF\u00c9', 'cafe\u0301', '\uff43af\u00e9', 'c\u0430f\u00e9', 'caf\u00e9","team=ops'].map(purpose => ({ ...right, purpose })),
    ]
    for (const more of [...wrong, ...wrong.toReversed()]) {
      expect([more, await answerOf(await house.evidence(), 'p/told', more)]).toEqual([more, '403 no_permit'])
      expect(await answerOf(await house.evidence(), 'p/told', right)).toBe('granted')
    }
    expect(await answerOf(await house.evidence({ repository_id: '45678' }), 'p/told', right)).toBe('403 no_permit')
  })
  it('an answer that held for fresh evidence is not served when it has aged, nor by policies that are no longer in force', async () => {
    const old = await house.evidence({ iat: house.now() - 61, nbf: house.now() - 61 })
    expect(await answerOf(await house.evidence(), 'p/fresh')).toBe('granted')
    expect((await open(old, 'p/fresh')).body).toMatchObject({ status: 403, failed: [{ claim: 'evidence_age' }] })
    writeFileSync(candidate(), '@id("candidate") forbid (principal, action, resource == Capability::"p/fresh");')
    await reloadPolicies(house.app)
    expect(await answerOf(await house.evidence(), 'p/fresh')).toBe('403 forbidden')
  })
  it('a name that was used is told from names that share all but its last sign, its case or its length', async () => {
    const jti = 'a'.repeat(255)
    for (const other of [jti, `${jti.slice(0, 254)}b`, jti.slice(0, 254), `A${jti.slice(1)}`, `${jti.slice(0, 254)} `])
      expect(await answerOf(await job('job', { jti: other }), 'p/jobs')).toBe('granted')
    expect(await answerOf(await job('Job', { jti }), 'p/jobs')).toBe('401 replayed')
    const keys = ['k'.repeat(128), `${'k'.repeat(127)}l`, 'k'.repeat(127), `K${'k'.repeat(127)}`]
    const made = keys.map(async key => (await me.credential(held, 'p/jobs', {}, { 'Idempotency-Key': key })).body.credential.id)
    expect(new Set(await Promise.all(made)).size).toBe(4)
  })
})

describe('T66 an unknown word is refused by the name of its field, and told in one row', () => {
  const details = (type: unknown) => JSON.stringify([{ type, purpose: 'report', capabilities: ['p/jobs'] }])
  const form = async (more: object) => {
    const plain = { subject_token: await job('job'), subject_token_type: ID_TOKEN, authorization_details: details(`${SERVER}/rar/task/v1`) }
    return me.exchange({ ...plain, ...more } as Record<string, string>)
  }
  const signal = async (more: object) => {
    const event = { id: randomBytes(9).toString('hex'), type: 'token.leaked', severity: 'low', occurred_at: '2026-01-01T00:00:00Z' }
    const { headers, text } = house.signal({ ...event, subject: keyed('identity'), ...more })
    return http().post('/v1/signals').set(headers).send(text)
  }
  const keyed = (word: unknown) => ({ [String(word)]: 'github:repository_id=1' })
  const inside = (parent: string) => (word: unknown) => `${parent}.${/^[\w.-]{1,60}$/.test(String(word)) ? word : '?'}`
  /** A door, the words it knows, how it names the field, what it does with a word, and whether the word may be any JSON value. */
  type Act = (word: never) => PromiseLike<Response>
  const DOORS: readonly [name: string, known: readonly string[], field: (word: unknown) => string, act: Act, json?: true][] = [
    ['grant type', ['urn:ietf:params:oauth:grant-type:token-exchange'], () => 'grant_type', grant_type => form({ grant_type })],
    ['evidence type, in a form', [ID_TOKEN], () => 'subject_token_type', subject_token_type => form({ subject_token_type })],
    ['token type', [ID_TOKEN.replace('id_token', 'access_token')], () => 'requested_token_type', requested_token_type => form({ requested_token_type })],
    ['type of a task object', [`${SERVER}/rar/task/v1`], () => 'authorization_details.0.type', w => form({ authorization_details: details(w) }), true],
    ['evidence type of a task', [ID_TOKEN], () => 'subject_token_type', async w => open(await job('job'), 'p/jobs', { subject_token_type: w }), true],
    ['evidence type, explained', [ID_TOKEN], () => 'subject_token_type', async w => ask(await job('job'), 'p/jobs', { subject_token_type: w }), true],
    ['evidence type of a credential', [ID_TOKEN], () => 'subject_token_type', w => me.credential(held, 'p/jobs', { subject_token_type: w }), true],
    ['severity', ['low', 'medium', 'high', 'critical'], () => 'severity', severity => signal({ severity }), true],
    ["kind of a signal's subject", ['identity'], inside('subject'), word => signal({ subject: keyed(word) })],
    ['kind of a selector', ['identity'], inside('selector'), word => end(keyed(word))],
    ['filter of decisions', ['true', 'false'], () => 'allowed', allowed => get('/v1/decisions', { allowed })],
    ['filter of credentials', ['active', 'revoked', 'live', 'stuck'], () => 'state', state => get('/v1/credentials', { state })],
  ]

  it.each(DOORS)('%s', async (_name, known, field, act, json) => {
    for (const word of known) expect([word, Math.floor((await act(word as never)).status / 100)]).toEqual([word, 2])
    const near = known.flatMap(w => [w.toUpperCase(), `${w} `, ` ${w}`, `${w}\u0000`, `${w}\u200d`, `${w},${w}`, w.slice(0, -1), w.replace('i', '\u0456')])
    const names = ['__proto__', 'constructor', 'toString', '*', 'null', 'password', 'x'.repeat(200)]
    const words = fc.oneof(fc.constantFrom(...near, ...names), fc.string({ minLength: 1, maxLength: 60 }), fc.string({ unit: 'binary', minLength: 1 }))
    const odd = json ? fc.oneof(words, fc.integer(), fc.boolean(), fc.constant(null), fc.array(fc.constantFrom(...known)), fc.dictionary(words, words)) : words
    await fc.assert(
      fc.asyncProperty(odd, async word => {
        fc.pre(![...SELECTOR_KINDS, 'pending', 'revoking', ID_TOKEN.replace('id_token', 'jwt'), ...known].includes(word as string))
        const reason = expect.stringMatching(/^(invalid_field|unknown_field|grant_type_unsupported)$/)
        await refused(() => act(word as never), { status: 400, reason, field: field(word) }, 'request.refused')
      }),
      { numRuns: 30, examples: [...near.slice(0, 8), ...names].map(word => [word] as [unknown]) },
    )
  })
  it('words that are no enum decide nothing: a reason is a message, an unknown hint is passed over (RFC 7009 section 2.1)', async () => {
    expect((await end(keyed('identity'), { reason: 'completed' })).body.revocation).toMatchObject({ reason: 'requested', message: 'completed' })
    for (const token_type_hint of ['access_token', 'refresh_token', 'nonsense'])
      expect((await http().post('/oauth2/revoke').type('form').send({ token: 'unknown', token_type_hint })).status).toBe(200)
  })
})

describe('T60 T61 names', () => {
  const hidden = [0, 10, 13, 0x85, 0xad, 0x61c, 0x180e, 0x200d, 0x2028, 0x202e, 0x2066, 0x206a, 0xfeff, 0xfff9, 0xe0041]
  it.each(hidden)('what nobody sees, code point %i, is in no text that people read', async code => {
    expect(await answerOf(await job('job'), 'p/jobs', { purpose: 'deploy', owner: 'deploy' })).toBe('granted')
    for (const field of ['purpose', 'owner']) {
      const told = { status: 400, reason: 'invalid_field', field }
      await refused(async () => open(await job('job'), 'p/jobs', { [field]: `dep${String.fromCodePoint(code)}loy` }), told, 'request.refused')
    }
  })
  it('what only looks alike is kept byte for byte: policy, storage, audit and view say the same', async () => {
    for (const purpose of ['cafe\u0301', '\uff43af\u00e9', 'c\u0430f\u00e9', 'CAF\u00c9', 'caf\u00e9']) {
      const { answer, rows } = await rowsOf(async () => open(await job('job'), 'p/jobs', { purpose }))
      const stored = await house.app.store.tasks.get(answer.body.task.id)
      for (const seen of [answer.body.task, stored, rows.find(r => r.kind === 'task.opened')?.data]) expect(seen).toMatchObject({ purpose })
      const denied = (await open(await house.evidence(), 'p/told', { purpose })).body
      if (purpose === 'caf\u00e9') expect(denied.failed).toMatchObject([{ claim: 'labels' }])
      else expect(denied.failed).toEqual([{ claim: 'purpose', actual: purpose }])
      expect((await house.app.store.decisions.get(denied.decision_id))?.explanation?.failed).toEqual(denied.failed)
    }
  })
  it('T61 workloads that are equal after lower() or trim() are found, counted and ended each for itself', async () => {
    const names = ['job-1', 'Job-1', 'JOB-1', 'job-1 ', ' job-1', 'job-1%20', 'job%2D1', 'job\u20111']
    const opened = await Promise.all(names.map(async sub => open(await job(sub), 'p/jobs')))
    expect(opened.pop()?.body).toMatchObject({ status: 401, reason: 'claim_invalid', field: 'sub' })
    const made = await Promise.all(opened.map(async ({ body }) => (await me.credential({ task: body.task.id, token: body.token }, 'p/jobs')).body.credential))
    expect(new Set(made.map(c => c.identity)).size).toBe(made.length)
    for (const c of made) expect((await get('/v1/credentials', { identity: c.identity })).body.credentials).toMatchObject([{ id: c.id }])
    await end({ identity: made[0].identity })
    const states = await Promise.all(made.map(async c => (await get(`/v1/credentials/${c.id}`)).body.credential.state))
    expect(states.map(state => state === 'active')).toEqual(made.map((_, i) => i > 0))
  })
})
