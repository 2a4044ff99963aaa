/** Completion from outside by GitLab and Buildkite: what their events end, whom they cannot hit, and what passes for no event of theirs (H30, T71–T73). */
import { createHmac, randomBytes, randomUUID } from 'node:crypto'
import supertest, { type Response } from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createApp } from '../../src/http/app.js'
import { doorsOf } from '../../src/serve.js'
import { type Caller, caller, type Held, introspect } from '../caller.js'
import { EDR_SECRET, type House, ORDERS_SECRET } from '../house.js'
import { ciHouse, ciToken } from '../providers.js'

const SIGNING = `whsec_${randomBytes(32).toString('base64')}`
const PIPELINE = '0184990a-4782-42b5-afc1-16715b10b1f0'
const STRANGE_PIPELINE = '0184990a-4782-42b5-afc1-000000000000'

let house: House
let ci: Caller
beforeAll(async () => {
  house = await ciHouse({
    secrets: { GITLAB_SIGNING: SIGNING },
    policies: ['demo/orders-ro', 'demo/orders-db']
      .map(
        (capability, i) => `@id("gitlab-${i}") permit (principal, action == Action::"issue", resource == Capability::"${capability}")
when { context.issuer == "gitlab" && context has gitlab && context.gitlab.namespace_id == "72" };
@id("buildkite-${i}") permit (principal, action == Action::"issue", resource == Capability::"${capability}")
when { context.issuer == "buildkite" && context has buildkite && context.buildkite.organization_id == "0184990a-477b-4fa8-9968-496074483c77" };
`,
      )
      .join(''),
    more: {
      hooks: [
        { name: 'gitlab-signed', kind: 'gitlab', issuer: 'gitlab', secret: { env: 'GITLAB_SIGNING' }, projects: ['20'] },
        { name: 'gitlab-old', kind: 'gitlab', issuer: 'gitlab', signed: false, secret: { env: 'EDR_SECRET' }, projects: ['20'] },
        { name: 'gitlab-other', kind: 'gitlab', issuer: 'gitlab', signed: false, secret: { env: 'ORDERS_SECRET' }, projects: ['21'] },
        { name: 'buildkite', kind: 'buildkite', issuer: 'buildkite', secret: { env: 'EDR_SECRET' }, pipelines: [PIPELINE] },
        { name: 'buildkite-other', kind: 'buildkite', issuer: 'buildkite', secret: { env: 'ORDERS_SECRET' }, pipelines: [STRANGE_PIPELINE] },
      ],
    },
  })
  ci = await caller(house)
})
afterAll(() => house?.close())

interface Job {
  readonly held: Held
  readonly token: string
  readonly ids: Ids
  /** The same job, with evidence as fresh as it likes. */
  again(): Promise<Response>
}
interface Ids {
  readonly owner: string
  readonly within: number
  readonly job: string
}
const number = () => randomBytes(4).readUInt32BE() + 1

/** One provider's jobs, events and signatures. */
interface Provider {
  readonly source: string
  readonly other: string
  readonly strangeOwner: string
  readonly field: string
  ids(more?: Partial<Ids>): Ids
  claims(ids: Ids): Record<string, unknown>
  event(ids: Ids, more?: Record<string, unknown>): Record<string, unknown>
  /** @param at seconds by which it is signed too early. */
  headers(text: string, options: { secret: string; at: number; id: string }): Record<string, string>
  readonly secret: string
  readonly unfinished: readonly [string, (event: Record<string, unknown>) => Record<string, unknown>][]
}

const gitlabEvent = ({ owner, within, job }: Ids, more: object = {}) => ({
  object_kind: 'build',
  ref: 'main',
  tag: false,
  build_id: Number(job),
  build_name: 'report',
  build_stage: 'test',
  build_status: 'success',
  build_finished_at: '2026-11-24 10:06:02 UTC',
  pipeline_id: within,
  project_id: Number(owner),
  project_name: 'acme / orders',
  user: { id: 1, name: 'Dana', username: 'dana' },
  runner: { id: 1, description: 'shared', active: true, tags: ['linux'] },
  project: { id: Number(owner), name: 'orders', path_with_namespace: 'acme/orders' },
  ...more,
})
const buildkiteEvent = ({ owner, within, job }: Ids, more: Record<string, unknown> = {}) => ({
  event: 'job.finished',
  job: { id: job, graphql_id: 'Sm9i', type: 'script', name: 'report', state: 'passed', exit_status: 0, ...((more.job as object) ?? {}) },
  build: { id: randomUUID(), number: within, state: 'running' },
  pipeline: { id: owner, slug: 'orders' },
  sender: { id: randomUUID(), name: 'Dana' },
  ...Object.fromEntries(Object.entries(more).filter(([name]) => name !== 'job')),
})

const PROVIDERS: Readonly<Record<string, Provider>> = {
  'gitlab, signed': {
    source: 'gitlab-signed',
    other: 'gitlab-other',
    strangeOwner: '21',
    field: 'project_id',
    secret: SIGNING,
    ids: more => ({ owner: '20', within: number(), job: String(number()), ...more }),
    claims: ({ owner, within, job }) => ({ project_id: owner, job_project_id: owner, pipeline_id: String(within), job_id: job }),
    event: gitlabEvent,
    headers: (text, { secret, at, id }) => {
      const key = Buffer.from(secret.replace('whsec_', ''), 'base64')
      const mac = createHmac('sha256', key).update(`${id}.${at}.${text}`).digest('base64')
      return { 'X-Gitlab-Event': 'Job Hook', 'webhook-id': id, 'webhook-timestamp': String(at), 'webhook-signature': `v1,${mac}` }
    },
    unfinished: ['created', 'pending', 'running', 'canceling', 'manual'].map(s => [`a job that is ${s}`, e => ({ ...e, build_status: s })]),
  },
  'gitlab, by its token': {
    source: 'gitlab-old',
    other: 'gitlab-other',
    strangeOwner: '21',
    field: 'project_id',
    secret: EDR_SECRET,
    ids: more => ({ owner: '20', within: number(), job: String(number()), ...more }),
    claims: ({ owner, within, job }) => ({ project_id: owner, job_project_id: owner, pipeline_id: String(within), job_id: job }),
    event: gitlabEvent,
    headers: (_text, { secret, id }) => ({ 'X-Gitlab-Event': 'Job Hook', 'X-Gitlab-Token': secret, 'X-Gitlab-Event-UUID': id }),
    unfinished: [['a job that runs', e => ({ ...e, build_status: 'running' })]],
  },
  buildkite: {
    source: 'buildkite',
    other: 'buildkite-other',
    strangeOwner: STRANGE_PIPELINE,
    field: 'pipeline.id',
    secret: EDR_SECRET,
    ids: more => ({ owner: PIPELINE, within: number(), job: randomUUID(), ...more }),
    claims: ({ owner, within, job }) => ({ pipeline_id: owner, build_number: within, job_id: job }),
    event: buildkiteEvent,
    headers: (text, { secret, at }) => {
      const mac = createHmac('sha256', secret).update(`${at}.${text}`).digest('hex')
      return { 'X-Buildkite-Event': (JSON.parse(text) as { event?: string }).event ?? '', 'X-Buildkite-Signature': `timestamp=${at},signature=${mac}` }
    },
    unfinished: [
      ['a job that begins', e => ({ ...e, event: 'job.started' })],
      ['a trigger, which no agent runs', e => ({ ...e, job: { ...(e.job as object), type: 'trigger' } })],
      ['a build, of which jobs may be retried', e => ({ ...e, event: 'build.finished' })],
    ],
  },
}

describe.each(Object.entries(PROVIDERS))('%s', (name, p) => {
  const provider = name.startsWith('gitlab') ? 'gitlab' : 'buildkite'

  async function job(more: Partial<Ids> = {}): Promise<Job> {
    const ids = p.ids(more)
    const evidence = () => ciToken(house, provider, { ...p.claims(ids), ...(provider === 'buildkite' ? { agent_id: randomUUID() } : {}) })
    const capabilities = ['demo/orders-ro', 'demo/orders-db']
    const held = await ci.opened({ subject_token: await evidence(), capabilities })
    const { body } = await ci.credential(held, 'demo/orders-ro')
    return { held, token: body.secret.token, ids, again: async () => ci.open({ subject_token: await evidence() }) }
  }
  interface Delivery {
    readonly source?: string
    readonly secret?: string
    readonly ago?: number
    readonly id?: string
    readonly headers?: Record<string, string>
  }
  function deliver(event: Record<string, unknown> | string, o: Delivery = {}): supertest.Test {
    const text = typeof event === 'string' ? event : JSON.stringify(event)
    const signed = p.headers(text, { secret: o.secret ?? p.secret, at: house.now() - (o.ago ?? 0), id: o.id ?? randomUUID() })
    return supertest(house.http)
      .post(`/v1/hooks/${o.source ?? p.source}`)
      .set({ 'Content-Type': 'application/json', ...signed, ...o.headers })
      .send(text)
  }
  const isLive = async (j: Job) => (await introspect(house, j.token)).body.active as boolean
  const told = async (request: supertest.Test) => {
    const { status, body } = await request
    return [status, typeof body.status === 'string' ? body.status : body.reason]
  }

  it('T71 a job ends: its credential is refused, its database user dies, its task says who said so, and the run begins nothing more', async () => {
    const j = await job()
    const db = await ci.credential(j.held, 'demo/orders-db')
    expect(await told(deliver(p.event(j.ids)))).toEqual([202, 'accepted'])
    expect(await isLive(j)).toBe(false)
    await house.work()
    expect(house.database.users.has(db.body.secret.PGUSER)).toBe(false)
    expect(await house.app.store.tasks.get(j.held.task as Parameters<typeof house.app.store.tasks.get>[0])).toMatchObject({
      state: 'completed',
      endedBy: { kind: 'signal', id: p.source },
    })
    expect((await j.again()).body).toMatchObject({ code: 'policy_denied', reason: 'tombstoned' })
    expect((await house.audits('task.abandoned'))[0]).toMatchObject({ data: { outcome: provider === 'gitlab' ? 'success' : 'passed' } })
  })

  it('T72 twin: another job of the same pipeline goes on, and so does its retry, which is a job of its own', async () => {
    const j = await job()
    const sibling = await job({ within: j.ids.within })
    await deliver(p.event(j.ids))
    expect([await isLive(j), await isLive(sibling)]).toEqual([false, true])
    expect((await sibling.again()).status).toBe(201)
    expect(await isLive(await job({ within: j.ids.within }))).toBe(true)
  })

  it('a job that was never seen is answered alike, and refused when it comes', async () => {
    const ids = p.ids()
    expect(await told(deliver(p.event(ids)))).toEqual([202, 'accepted'])
    const late = await ci.open({ subject_token: await ciToken(house, provider, p.claims(ids)) })
    expect(late.body).toMatchObject({ reason: 'tombstoned' })
  })

  it.each(p.unfinished)('%s ends nothing', async (_what, change) => {
    const j = await job()
    expect(await told(deliver(change(p.event(j.ids))))).toEqual([202, 'ignored'])
    expect(await isLive(j)).toBe(true)
    expect((await j.again()).status).toBe(201)
  })

  it('T73 a source says nothing about jobs of another, under its own name or theirs', async () => {
    const j = await job({ owner: p.strangeOwner })
    expect(await told(deliver(p.event(j.ids)))).toEqual([403, 'hook_out_of_scope'])
    expect((await deliver(p.event(j.ids))).body.field).toBe(p.field)
    const lie = p.event({ ...j.ids, owner: p.ids().owner })
    expect(await told(deliver(lie))).toEqual([202, 'accepted'])
    expect(await isLive(j)).toBe(true)
    expect((await j.again()).status).toBe(201)
  })

  it('H30 a bad MAC, none, another source’s, an altered body and an unknown source are one answer; twin: the right one', async () => {
    const j = await job()
    const event = p.event(j.ids)
    const text = JSON.stringify(event)
    const other = p.secret.startsWith('whsec_') ? `whsec_${randomBytes(32).toString('base64')}` : ORDERS_SECRET
    const signature = Object.keys(p.headers(text, { secret: p.secret, at: 0, id: 'x' })).find(h => /signature|token/i.test(h)) as string
    const answers = [
      await deliver(event, { secret: other }),
      await deliver(event, { headers: { [signature]: '' } }),
      await deliver(event, { headers: { [signature]: 'v1,AAAA' } }),
      await deliver(event, { headers: { [signature]: `${p.headers(text, { secret: p.secret, at: house.now(), id: 'x' })[signature]}x` } }),
      await deliver(event, { source: p.other, secret: p.secret }),
      await deliver(event, { source: 'nobody' }),
      await deliver(event, { source: 'github-org' }),
    ]
    // The token of older instances covers no body; what is altered below is caught by the MAC of the others.
    if (signature !== 'X-Gitlab-Token') {
      const at = house.now()
      const id = randomUUID()
      const headers = p.headers(text, { secret: p.secret, at, id })
      const late = { ...headers, 'webhook-timestamp': String(at + 1) }
      answers.push(await deliver(`${text} `, { headers }))
      if (headers['webhook-id'])
        answers.push(await deliver(text, { headers: { ...headers, 'webhook-id': randomUUID() } }), await deliver(text, { headers: late }))
    }
    const shapes = answers.map(({ status, headers, body }) => ({ status, type: headers['content-type'], body: { ...body, request_id: '' } }))
    for (const shape of shapes) expect(shape).toEqual(shapes[0])
    expect(shapes[0]).toMatchObject({ status: 401, body: { code: 'attestation_refused', reason: 'hook_refused' } })
    expect(JSON.stringify(answers.map(a => a.body))).not.toContain(p.secret)
    expect(await isLive(j)).toBe(true)
    expect(await told(deliver(event))).toEqual([202, 'accepted'])
    expect(await isLive(j)).toBe(false)
  })

  it('H30 what was signed long ago, or ahead of time, is refused, where a time is signed at all; twin: within five minutes', async () => {
    const j = await job()
    const isTimed = name !== 'gitlab, by its token'
    for (const ago of isTimed ? [301, 86_400, -302] : []) {
      expect(await told(deliver(p.event(j.ids), { ago }))).toEqual([401, 'hook_old'])
      expect(await isLive(j)).toBe(true)
    }
    expect(await told(deliver(p.event(j.ids), { ago: 290 }))).toEqual([202, 'accepted'])
    expect(await isLive(j)).toBe(false)
  })

  it('H30 the same delivery again, and the same bytes under another name or time, do nothing and are answered alike', async () => {
    const j = await job()
    const id = randomUUID()
    const event = p.event(j.ids)
    await deliver(event, { id })
    const before = (await house.audits('run.ended')).length
    for (const again of [deliver(event, { id }), deliver(event), deliver(event, { ago: 20 })]) expect(await told(again)).toEqual([202, 'accepted'])
    expect((await house.audits('run.ended')).length).toBe(before)
    await deliver(p.event(p.ids()))
    expect((await house.audits('run.ended')).length).toBe(before + 1)
  })

  it.each([
    ['a body that is none', () => '{'],
    [
      'a member twice',
      (e: Record<string, unknown>) =>
        JSON.stringify(e).replace('{', '{"event":"job.finished","event":"job.finished","object_kind":"build","object_kind":"build",'),
    ],
    ['ids as texts', (e: Record<string, unknown>) => JSON.stringify(e).replace(/"(build_id|number)":(\d+)/, '"$1":"$2"')],
    ['a number that JSON cannot hold', (e: Record<string, unknown>) => JSON.stringify(e).replace(/"(build_id|number)":\d+/, '"$1":9007199254740993')],
    ['a job with a colon in its name', (e: Record<string, unknown>) => JSON.stringify({ ...e, build_id: '1:2', job: { ...(e.job as object), id: 'a:b' } })],
  ])('%s is refused, signed as it is', async (_what, change) => {
    const j = await job()
    const text = change(p.event(j.ids))
    const given = { 'X-Buildkite-Event': 'job.finished' }
    const request = text === '{' && provider === 'buildkite' ? null : deliver(text, { headers: provider === 'buildkite' ? given : {} })
    if (request) expect((await request).body).toMatchObject({ status: 400, code: 'malformed' })
    expect(await isLive(j)).toBe(true)
    expect(await told(deliver(p.event(j.ids)))).toEqual([202, 'accepted'])
  })
})

describe('of GitLab', () => {
  it('H30 a token that is being replaced: one of several signatures suffices, an unknown version does not', async () => {
    const p = PROVIDERS['gitlab, signed'] as Provider
    const send = (change: (signature: string) => string) => {
      const text = JSON.stringify(p.event(p.ids()))
      const headers = p.headers(text, { secret: SIGNING, at: house.now(), id: randomUUID() })
      return supertest(house.http)
        .post('/v1/hooks/gitlab-signed')
        .set({ 'Content-Type': 'application/json', ...headers, 'webhook-signature': change(headers['webhook-signature'] as string) })
        .send(text)
    }
    expect((await send(s => `v1,${randomBytes(32).toString('base64')} ${s}`)).status).toBe(202)
    expect((await send(s => s.replace('v1,', 'v1a,'))).status).toBe(401)
    expect((await send(s => s.replace('v1,', ''))).status).toBe(401)
  })

  it('another event with the members of a job is none, whatever its header says', async () => {
    const p = PROVIDERS['gitlab, by its token'] as Provider
    const ids = p.ids()
    const send = (event: object, header: string) =>
      supertest(house.http)
        .post('/v1/hooks/gitlab-old')
        .set({ 'Content-Type': 'application/json', 'X-Gitlab-Token': EDR_SECRET, 'X-Gitlab-Event': header })
        .send(event)
    expect((await send(p.event(ids), 'Pipeline Hook')).body).toEqual({ status: 'ignored' })
    expect((await send(p.event(ids), 'System Hook')).body).toEqual({ status: 'ignored' })
    expect((await send(p.event(ids, { object_kind: 'pipeline' }), 'Job Hook')).body).toMatchObject({ code: 'malformed', field: 'object_kind' })
    expect((await send(p.event(ids), 'Job Hook')).body).toEqual({ status: 'accepted' })
  })

  it('a signing token that is none is refused at start, by the name of its hook', () => {
    const doors = doorsOf(house.app, house.feed)
    const bad = doors.hooks.map(h => (h.name === 'gitlab-old' ? { ...h, kind: 'gitlab' as const } : h))
    expect(() => createApp({ ...doors, hooks: bad })).toThrow(/^hooks\.gitlab-old\.secret: is no signing token of GitLab \(whsec_/)
    expect(() => createApp(doors)).not.toThrow()
  })
})

it('a ping of Buildkite is answered, and needs its signature like everything else', async () => {
  const p = PROVIDERS.buildkite as Provider
  const text = JSON.stringify({ event: 'ping', service: { id: 'x' }, organization: { id: 'o' } })
  const send = (secret: string) =>
    supertest(house.http)
      .post('/v1/hooks/buildkite')
      .set({ 'Content-Type': 'application/json', ...p.headers(text, { secret, at: house.now(), id: '' }) })
      .send(text)
  expect([(await send(EDR_SECRET)).status, (await send('x')).status]).toEqual([200, 401])
})
