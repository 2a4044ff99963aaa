/** Completion from outside: what the provider's events end, whom they cannot hit, and what is marked when only they said so. */
import { createHmac, randomUUID } from 'node:crypto'
import { type AddressInfo, connect } from 'node:net'
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller, type Held, introspect } from '../caller.js'
import { EDR_SECRET, GITHUB, type House, makeHouse, ORDERS_SECRET } from '../house.js'

const OWNER = 123456
const STRANGER = 777
let house: House
let auditor: string
let ci: Caller

beforeAll(async () => {
  house = await makeHouse({
    policies: ['demo/orders-ro', 'demo/orders-db']
      .flatMap(c => [OWNER, STRANGER].map(owner => [c, owner]))
      .map(
        ([c, owner], i) =>
          `@id("any-${i}") permit(principal, action == Action::"issue", resource == Capability::"${c}") when { context.issuer == "github" && context has github && context.github.repository_owner_id == "${owner}" };`,
      )
      .join('\n'),
    more: {
      issuers: [
        {
          name: 'github',
          kind: 'oidc',
          profile: 'github',
          issuer: GITHUB,
          keys: { file: 'github.jwks' },
          pin: { repository_owner_id: [String(OWNER), String(STRANGER)] },
          owner: '@orders-team',
        },
        { name: 'agents', kind: 'registered', agents: [{ name: 'reporter', owner: '@data', key: { file: 'agent.jwk' } }] },
      ],
      hooks: [
        { name: 'github-org', kind: 'github', issuer: 'github', secret: { env: 'EDR_SECRET' }, owners: [String(OWNER)] },
        { name: 'github-other', kind: 'github', issuer: 'github', secret: { env: 'ORDERS_SECRET' }, owners: [String(STRANGER)] },
      ],
    },
  })
  auditor = await house.operator('auditor')
  ci = await caller(house)
})
afterAll(() => house.close())

let count = 1_000
const number = () => ++count

/** One job of one run, with a token and a database user. */
async function job(claims: { run?: number; attempt?: number; check?: number; repository?: number; owner?: number } = {}) {
  const ids = { run: number(), attempt: 1, check: 14_541_957_000 + number(), repository: number(), owner: OWNER, ...claims }
  const evidence = () =>
    house.evidence({
      repository_id: String(ids.repository),
      repository_owner_id: String(ids.owner),
      run_id: String(ids.run),
      run_attempt: String(ids.attempt),
      check_run_id: String(ids.check),
    })
  const open = async () => ci.open({ subject_token: await evidence(), capabilities: ['demo/orders-ro', 'demo/orders-db'] })
  const { body } = await open()
  const held: Held = { task: body.task.id, token: body.token }
  const credential = await ci.credential(held, 'demo/orders-ro')
  return { ids, open, held, token: credential.body.secret.token as string, again: async () => (await open()).body }
}
type Ids = Awaited<ReturnType<typeof job>>['ids']

/** As GitHub shapes them: much that nobody here reads, among it texts of the repository's own. */
const noise = (n: number) =>
  Object.fromEntries(Array.from({ length: n }, (_, i) => [`part_${i}_url`, `https://api.github.com/repos/acme/orders/part-${i}{/id}`]))
const repositoryOf = (ids: Ids) => ({ id: ids.repository, ...noise(80), owner: { login: 'acme', id: ids.owner, ...noise(12) }, topics: [], license: null })
const jobEvent = (ids: Ids, more: Record<string, unknown> = {}, steps = 12) => ({
  action: 'completed',
  workflow_job: {
    id: ids.check,
    run_id: ids.run,
    run_attempt: ids.attempt,
    workflow_name: 'Nightly 🚀',
    conclusion: 'success',
    check_run_url: `https://api.github.com/repos/acme/orders/check-runs/${ids.check}`,
    labels: ['ubuntu-latest'],
    steps: Array.from({ length: steps }, (_, i) => ({
      name: `step "${i}"`,
      status: 'completed',
      conclusion: 'success',
      number: i,
      started_at: null,
      completed_at: null,
    })),
  },
  repository: repositoryOf(ids),
  sender: { login: 'dana', id: 7 },
  ...more,
})
const runEvent = (ids: Ids) => ({
  action: 'completed',
  workflow_run: {
    id: ids.run,
    run_attempt: ids.attempt,
    conclusion: 'cancelled',
    head_commit: { message: 'two\nlines', author: { name: 'Ada' } },
    pull_requests: [{ head: { repo: { id: 1 } }, base: { repo: { id: 1 } } }],
    head_repository: repositoryOf(ids),
    repository: repositoryOf(ids),
  },
  repository: repositoryOf(ids),
})

interface Sent {
  readonly event?: string
  readonly source?: string
  readonly secret?: string
  readonly delivery?: string
  readonly headers?: Record<string, string>
}
const sign = (text: string, secret: string) => `sha256=${createHmac('sha256', secret).update(text).digest('hex')}`
const deliver = (
  payload: unknown,
  { event = 'workflow_job', source = 'github-org', secret = EDR_SECRET, delivery = randomUUID(), headers = {} }: Sent = {},
) => {
  const text = typeof payload === 'string' ? payload : JSON.stringify(payload)
  return supertest(house.http)
    .post(`/v1/hooks/${source}`)
    .set({ 'Content-Type': 'application/json', 'X-GitHub-Event': event, 'X-GitHub-Delivery': delivery, 'X-Hub-Signature-256': sign(text, secret), ...headers })
    .send(text)
}
const isLive = async (j: { token: string }) => (await introspect(house, j.token)).body.active as boolean
const taskOf = async (j: { held: Held }) =>
  (await supertest(house.http).get(`/v1/tasks/${j.held.task}`).set('Authorization', `Bearer ${auditor}`)).body.task as Record<string, unknown>
const abandoned = async (j: { held: Held }) => (await house.audits('task.abandoned')).filter(r => (r as { subject?: string }).subject === j.held.task).length
const metrics = () => house.app.metrics.text(house.app.store)
const counted = async (line: string) => Number(new RegExp(`^${line.replace(/[{}"]/g, '\\$&')} (\\d+)$`, 'm').exec(await metrics())?.[1] ?? 0)

describe('what is no event', () => {
  it.each(['', 'null', '[]', '"ping"', '{', 'ping'])('signed rightly, and still %j is no JSON object: not even as a ping', async text => {
    for (const event of ['ping', 'push']) expect((await deliver(text, { event })).body).toMatchObject({ status: 400, reason: 'not_json' })
    expect((await deliver('{}', { event: 'ping' })).status).toBe(200)
  })
})

describe('a job ends', () => {
  it('T71: its credential is refused, its database user dies, and the run may not begin again, with evidence as fresh as it likes', async () => {
    const j = await job()
    const db = await ci.credential(j.held, 'demo/orders-db')
    expect(await isLive(j)).toBe(true)
    const answer = await deliver(jobEvent(j.ids))
    expect([answer.status, answer.body]).toEqual([202, { status: 'accepted' }])
    expect(await isLive(j)).toBe(false)
    await house.work()
    expect(house.database.users.has(db.body.secret.PGUSER)).toBe(false)
    expect(await taskOf(j)).toMatchObject({ state: 'completed', end_reason: 'completed', ended_by: { kind: 'signal', id: 'github-org' } })
    expect(await j.again()).toMatchObject({ code: 'policy_denied', reason: 'tombstoned' })
    await house.advance(5)
    expect(await j.again()).toMatchObject({ code: 'policy_denied', reason: 'tombstoned' })
    expect((await ci.credential(j.held, 'demo/orders-ro')).body).toMatchObject({ code: 'task_ended' })
  })

  it('T71, the twin: a new attempt of the same run begins anew', async () => {
    const j = await job()
    await deliver(jobEvent(j.ids))
    const next = await job({ ...j.ids, attempt: 2, check: j.ids.check + 1 })
    expect(await isLive(next)).toBe(true)
  })

  it('T72: a sibling job of the same run goes on, and goes on being admitted', async () => {
    const j = await job()
    const sibling = await job({ ...j.ids, check: j.ids.check + 1 })
    await deliver(jobEvent(j.ids))
    expect([await isLive(j), await isLive(sibling)]).toEqual([false, true])
    expect((await ci.credential(sibling.held, 'demo/orders-ro')).status).toBe(201)
    expect((await sibling.open()).status).toBe(201)
  })

  it('T72, the twin: the end of the attempt ends both, and what was never seen of it', async () => {
    const j = await job()
    const sibling = await job({ ...j.ids, check: j.ids.check + 1 })
    expect((await deliver(runEvent(j.ids), { event: 'workflow_run' })).status).toBe(202)
    expect([await isLive(j), await isLive(sibling)]).toEqual([false, false])
    expect(await taskOf(sibling)).toMatchObject({ ended_by: { kind: 'signal', id: 'github-org' } })
    const unseen = await ci.open({
      subject_token: await house.evidence({
        repository_id: String(j.ids.repository),
        run_id: String(j.ids.run),
        run_attempt: '1',
        check_run_id: String(j.ids.check + 2),
      }),
    })
    expect(unseen.body).toMatchObject({ code: 'policy_denied', reason: 'tombstoned' })
    expect((await job({ ...j.ids, attempt: 2 })).held.task).toBeTruthy()
  })

  it('a run that was never seen is answered alike, and refused when it comes', async () => {
    const ids = { run: number(), attempt: 1, check: number(), repository: number(), owner: OWNER }
    const answer = await deliver(jobEvent(ids))
    expect([answer.status, answer.body]).toEqual([202, { status: 'accepted' }])
    const late = await ci.open({
      subject_token: await house.evidence({
        repository_id: String(ids.repository),
        run_id: String(ids.run),
        run_attempt: '1',
        check_run_id: String(ids.check),
      }),
    })
    expect(late.body).toMatchObject({ reason: 'tombstoned' })
  })

  it('what a dead broker left undone, the sweep ends', async () => {
    const j = await job()
    const { revocations } = house.app.store
    const commit = revocations.commit
    Object.assign(revocations, { commit: () => Promise.reject(new Error('gone')) })
    try {
      expect((await deliver(jobEvent(j.ids))).status).toBe(202)
    } finally {
      Object.assign(revocations, { commit })
    }
    expect(await taskOf(j)).toMatchObject({ state: 'open' })
    // Tombstoned before anything else: it can do nothing new meanwhile.
    expect((await ci.credential(j.held, 'demo/orders-ro')).body).toMatchObject({ reason: 'tombstoned' })
    await house.sweep()
    expect(await taskOf(j)).toMatchObject({ state: 'completed', ended_by: { kind: 'signal', id: 'github-org' } })
    expect([await isLive(j), await abandoned(j)]).toEqual([false, 1])
    expect(await house.app.store.runs.due(9)).toEqual([])
  })
})

describe('who came first', () => {
  it('a killed runner says nothing: only the event ends its task, which is marked, counted and told', async () => {
    const j = await job()
    const before = await counted('curfew_tasks_abandoned_total{source="github-org"}')
    await deliver(jobEvent(j.ids))
    expect(await abandoned(j)).toBe(1)
    expect(await counted('curfew_tasks_abandoned_total{source="github-org"}')).toBe(before + 1)
    const [mark] = (await house.audits('task.abandoned')) as unknown as Record<string, unknown>[]
    expect(mark).toMatchObject({ subject: j.held.task, reason: 'completed', actor: { kind: 'signal', id: 'github-org' }, data: { outcome: 'success' } })
  })

  it('the twin: its holder completed first, and nothing is marked', async () => {
    const j = await job()
    const before = await counted('curfew_tasks_abandoned_total{source="github-org"}')
    await ci.as(j.held, 'post', `/v1/tasks/${j.held.task}/complete`, { outcome: 'ok' })
    expect((await deliver(jobEvent(j.ids))).status).toBe(202)
    expect(await abandoned(j)).toBe(0)
    expect(await counted('curfew_tasks_abandoned_total{source="github-org"}')).toBe(before)
    expect(await taskOf(j)).toMatchObject({ state: 'completed', ended_by: { kind: 'holder', id: j.held.task } })
    // It is over all the same.
    expect(await j.again()).toMatchObject({ reason: 'tombstoned' })
  })
})

describe('who may say so', () => {
  it('T73: a source says nothing about runs of another owner, and nothing of them is hit', async () => {
    const j = await job({ owner: STRANGER })
    const answer = await deliver(jobEvent(j.ids))
    expect(answer.body).toMatchObject({ status: 403, code: 'forbidden', reason: 'hook_out_of_scope', field: 'repository.owner.id' })
    expect(await isLive(j)).toBe(true)
    expect((await j.open()).status).toBe(201)
    // The twin: the source of that owner.
    expect((await deliver(jobEvent(j.ids), { source: 'github-other', secret: ORDERS_SECRET })).status).toBe(202)
    expect(await isLive(j)).toBe(false)
  })

  it.each([
    ['a job', 'workflow_job', (ids: Ids) => jobEvent(ids)],
    ['an attempt', 'workflow_run', (ids: Ids) => runEvent(ids)],
  ])('T73: whoever holds one secret cannot name %s of another owner under his own name', async (_what, event, payload) => {
    const j = await job({ owner: OWNER })
    const lie = payload({ ...j.ids, owner: STRANGER })
    expect((await deliver(lie, { event, source: 'github-other', secret: ORDERS_SECRET })).status).toBe(202)
    expect(await isLive(j)).toBe(true)
    expect((await j.open()).status).toBe(201)
    expect((await deliver(payload(j.ids), { event })).status).toBe(202)
    expect(await isLive(j)).toBe(false)
  })

  it('H30: an unknown source, a bad MAC, none and another source’s are one answer', async () => {
    const j = await job()
    const payload = jobEvent(j.ids)
    const answers = [
      await deliver(payload, { source: 'nobody' }),
      await deliver(payload, { source: 'nobody', secret: 'x' }),
      await deliver(payload, { secret: 'x' }),
      await deliver(payload, { secret: ORDERS_SECRET }),
      await deliver(payload, { headers: { 'X-Hub-Signature-256': '' } }),
      await deliver(payload, { headers: { 'X-Hub-Signature-256': 'sha256=00' } }),
      await deliver(payload, { headers: { 'X-Hub-Signature-256': sign(JSON.stringify(payload), EDR_SECRET).toUpperCase() } }),
      await deliver(payload, { headers: { 'X-Hub-Signature-256': sign(`${JSON.stringify(payload)} `, EDR_SECRET) } }),
      await deliver('{', { secret: 'x' }),
    ]
    const shapes = answers.map(({ status, headers, body }) => ({
      status,
      type: headers['content-type'],
      close: headers.connection,
      body: { ...body, request_id: '' },
    }))
    for (const shape of shapes) expect(shape).toEqual(shapes[0])
    expect(shapes[0]).toMatchObject({ status: 401, body: { code: 'attestation_refused', reason: 'hook_refused' } })
    expect(JSON.stringify(answers.map(a => a.body))).not.toContain(EDR_SECRET)
    expect(await isLive(j)).toBe(true)
    expect((await deliver(payload)).status).toBe(202)
    expect(await isLive(j)).toBe(false)
  })

  it('H30: the same delivery again, and the same bytes under another name, do nothing and are answered alike', async () => {
    const j = await job()
    const delivery = randomUUID()
    const first = await deliver(jobEvent(j.ids), { delivery })
    const ends = async () => (await house.audits('run.ended')).length
    const before = await ends()
    for (const again of [
      await deliver(jobEvent(j.ids), { delivery }),
      // The header is not under the MAC: an old body under a new name is still the old body.
      await deliver(jobEvent(j.ids)),
      await deliver(jobEvent({ ...j.ids, check: number() }), { delivery }),
    ])
      expect([again.status, again.body]).toEqual([first.status, first.body])
    expect(await ends()).toBe(before)
    expect(await counted('curfew_hooks_total{source="github-org",result="repeated"}')).toBeGreaterThanOrEqual(3)
    // The twin: another delivery about another job.
    await deliver(jobEvent({ ...j.ids, check: number() }))
    expect(await ends()).toBe(before + 1)
  })
})

describe('what is read', () => {
  it('a ping is answered, and needs the secret like everything else', async () => {
    const answer = await deliver({ zen: 'Keep it logically awesome.', hook_id: 1 }, { event: 'ping' })
    expect([answer.status, answer.body]).toEqual([200, { status: 'ok' }])
    expect((await deliver({ zen: '' }, { event: 'ping', secret: 'x' })).status).toBe(401)
  })

  it.each([
    ['a job that only begins', 'workflow_job', (ids: Ids) => ({ ...jobEvent(ids), action: 'in_progress' })],
    ['a run that is asked for', 'workflow_run', (ids: Ids) => ({ ...runEvent(ids), action: 'requested' })],
    ['another event with the same action', 'check_run', (ids: Ids) => jobEvent(ids)],
    ['a push', 'push', () => ({ ref: 'refs/heads/main' })],
  ])('%s is ignored, and counted', async (_what, event, payload) => {
    const j = await job()
    const before = await counted('curfew_hooks_total{source="github-org",result="ignored"}')
    const answer = await deliver(payload(j.ids), { event })
    expect([answer.status, answer.body]).toEqual([202, { status: 'ignored' }])
    expect(await counted('curfew_hooks_total{source="github-org",result="ignored"}')).toBe(before + 1)
    expect(await isLive(j)).toBe(true)
    expect((await j.open()).status).toBe(201)
  })

  it.each([
    ['the body of a job as a run', 'workflow_run', (ids: Ids) => jobEvent(ids)],
    ['the body of a run as a job', 'workflow_job', (ids: Ids) => runEvent(ids)],
    [
      'a check run that is no number',
      'workflow_job',
      (ids: Ids) => ({ ...jobEvent(ids), workflow_job: { ...jobEvent(ids).workflow_job, check_run_url: 'https://x/check-runs/*' } }),
    ],
    [
      'a check run with a part too many',
      'workflow_job',
      (ids: Ids) => ({ ...jobEvent(ids), workflow_job: { ...jobEvent(ids).workflow_job, check_run_url: 'https://x/check-runs/1:2' } }),
    ],
    ['an owner in text', 'workflow_job', (ids: Ids) => ({ ...jobEvent(ids), repository: { id: ids.repository, owner: { id: String(OWNER) } } })],
    ['a number that JSON cannot hold', 'workflow_job', (ids: Ids) => JSON.stringify(jobEvent(ids)).replace(`"run_id":${ids.run}`, '"run_id":9007199254740993')],
    ['a member twice', 'workflow_job', (ids: Ids) => JSON.stringify(jobEvent(ids)).replace('{"action"', '{"action":"queued","action"')],
    ['a body cut short', 'workflow_job', (ids: Ids) => JSON.stringify(jobEvent(ids)).slice(0, -20)],
  ])('%s is refused, signed as it is', async (_what, event, payload) => {
    const j = await job()
    expect((await deliver(payload(j.ids), { event })).body).toMatchObject({ status: 400, code: 'malformed' })
    expect(await isLive(j)).toBe(true)
    expect((await deliver(jobEvent(j.ids))).status).toBe(202)
    expect(await isLive(j)).toBe(false)
  })

  it('a large event is read, a body of 2 MiB is not, and elsewhere the limit is what it was', async () => {
    const j = await job()
    const padded = (length: number) => ({ ...jobEvent(j.ids, {}, 1_000), pad: 'x'.repeat(length) })
    for (const length of [1_048_576, 2_097_152]) expect((await deliver(padded(length))).body).toMatchObject({ status: 413, reason: 'body_too_large' })
    expect(await isLive(j)).toBe(true)
    expect((await supertest(house.http).post('/v1/signals').set('Content-Type', 'application/json').send(padded(20_000))).body).toMatchObject({ status: 413 })
    expect((await deliver(padded(500_000))).status).toBe(202)
    expect(await isLive(j)).toBe(false)
  })

  it.each([
    ['no delivery', { 'X-GitHub-Delivery': '' }, 400],
    ['a form', { 'Content-Type': 'application/x-www-form-urlencoded' }, 415],
  ])('%s is refused', async (_what, headers, status) => {
    const j = await job()
    expect((await deliver(jobEvent(j.ids), { headers })).status).toBe(status)
    expect(await isLive(j)).toBe(true)
  })

  it('a body that stops arriving ends nothing', async () => {
    const j = await job()
    const text = JSON.stringify(jobEvent(j.ids))
    const server = house.http.listen(0, '127.0.0.1')
    await new Promise(resolve => server.once('listening', resolve))
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
    socket.on('error', () => {}).resume()
    socket.end(
      `POST /v1/hooks/github-org HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${text.length + 9}\r\nX-GitHub-Event: workflow_job\r\nX-GitHub-Delivery: ${randomUUID()}\r\nX-Hub-Signature-256: ${sign(text, EDR_SECRET)}\r\n\r\n${text}`,
    )
    await new Promise(resolve => socket.once('close', resolve))
    await new Promise(resolve => server.close(resolve))
    expect(await isLive(j)).toBe(true)
    expect((await deliver(text)).status).toBe(202)
    expect(await isLive(j)).toBe(false)
  })
})
