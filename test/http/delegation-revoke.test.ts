/** Whatever ends a task ends all below it, from the commit on: by every selector that can hit something above, and what a quarantine says of it (P64). */
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller, type Held, introspect } from '../caller.js'
import { asksGrant, childOf, DB, delegationHouse, granted, identityOf, job, openAs, opensBelow, RO } from '../delegation.js'
import type { House } from '../house.js'

let house: House
let root: Caller
let middle: Caller
let leaf: Caller
beforeAll(async () => {
  house = await delegationHouse()
  ;[root, middle, leaf] = await Promise.all([caller(house), caller(house), caller(house)])
})
afterAll(() => house?.close())

interface Family {
  readonly root: Held
  readonly middle: Held
  readonly leaf: Held
  readonly token: string
  readonly credential: string
  readonly above: string
  readonly claims: Record<string, string>
}

/** Three tasks of three workloads, each below the other; the lowest holds a token. */
async function family(): Promise<Family> {
  await house.advance(2)
  const claims = { run_id: String(1_000_000 + Math.floor(house.now() % 1_000_000)), actor: `dana-${house.now()}`, workflow_sha: 'a'.repeat(40) }
  const top = await root.opened({ subject_token: await job(house, 1, claims), labels: { tree: String(house.now()) } })
  const second = await childOf(house, root, top, middle, 2)
  const third = await childOf(house, middle, second, leaf, 3)
  const made = await leaf.credential(third, RO)
  const above = await root.credential(top, RO)
  return { root: top, middle: second, leaf: third, token: made.body.secret.token, credential: made.body.credential.id, above: above.body.credential.id, claims }
}

const act = async (path: string, body: unknown) => {
  const answer = await supertest(house.http)
    .post(path)
    .set('Authorization', `Bearer ${await house.operator('responder')}`)
    .send(body as object)
  if (answer.status >= 300) throw new Error(`${answer.status} ${JSON.stringify(answer.body)}`)
  return answer.body
}
const isLive = async (token: string) => (await introspect(house, token)).body.active as boolean

describe('a revocation of what is above', () => {
  const selectors: [string, (f: Family) => object][] = [
    ['the task at the top', f => ({ task: f.root.task })],
    ['the task in the middle', f => ({ task: f.middle.task })],
    ['the task itself', f => ({ task: f.leaf.task })],
    ['the identity of the principal', () => ({ identity: identityOf(1) })],
    ['the identity in the middle', () => ({ identity: identityOf(2) })],
    ['its own identity', () => ({ identity: identityOf(3) })],
    ['the issuer', () => ({ issuer: 'github' })],
    ['everything', () => ({ all: true })],
    ['the capability', () => ({ capability: RO })],
    ['attributes of the principal: its repository', () => ({ repository_id: '1' })],
    ['its run', f => ({ run_id: f.claims.run_id })],
    ['its actor', f => ({ actor: f.claims.actor, issuer: 'github' })],
    ['its commit', f => ({ workflow_sha: f.claims.workflow_sha })],
    ['attributes of the middle', () => ({ workflow_ref: 'acme/r2/.github/workflows/ci.yml@refs/heads/main' })],
    ['its owner', () => ({ owner: '@orders-team' })],
  ]
  it.each(selectors)('%s', async (_, selectorOf) => {
    const f = await family()
    expect(await isLive(f.token)).toBe(true)
    await act('/v1/revocations', { selector: selectorOf(f), reason: 'test' })
    expect((await introspect(house, f.token)).body).toEqual({ active: false })
    // A capability's cut-off ends credentials, not tasks.
    await house.advance(1)
    expect((await leaf.credential(f.leaf, RO)).status).toBe(Object.hasOwn(selectorOf(f), 'capability') ? 201 : 409)
    await house.work()
    await house.sweep()
    expect(await house.app.store.credentials.get(f.credential as never)).toMatchObject({ state: 'revoked' })
    // The twin: another family lives.
    const next = await family()
    expect(await isLive(next.token)).toBe(true)
  })

  it('ends the subtree and no more: what is above and beside goes on', async () => {
    const f = await family()
    const beside = await childOf(house, root, f.root, leaf, 3)
    await act('/v1/revocations', { selector: { task: f.middle.task }, reason: 'test' })
    expect(await isLive(f.token)).toBe(false)
    for (const [who, held] of [
      [root, f.root],
      [leaf, beside],
    ] as const)
      expect((await who.credential(held, DB)).body).toMatchObject({ reason: 'not_declared' })
    expect(await house.app.store.credentials.get(f.above as never)).toMatchObject({ state: 'active' })
    expect((await leaf.credential(beside, RO)).status).toBe(201)
  })

  it('of a credential above ends that one alone', async () => {
    const f = await family()
    await act('/v1/revocations', { selector: { credential: f.above }, reason: 'test' })
    expect(await isLive(f.token)).toBe(true)
  })

  it('the holder above completes: all below is over, and told as such', async () => {
    const f = await family()
    await root.as(f.root, 'post', `/v1/tasks/${f.root.task}/complete`, {})
    expect(await isLive(f.token)).toBe(false)
    expect(await house.app.store.tasks.get(f.leaf.task as never)).toMatchObject({ state: 'completed', endReason: 'parent_ended' })
  })

  it('a silent parent and a parent past its deadline end their children', async () => {
    const top = await openAs(house, root, 1, { heartbeat_seconds: 5 })
    const mine = await childOf(house, root, top, leaf, 3)
    const made = await leaf.credential(mine, RO)
    await house.advance(16)
    await house.sweep()
    expect(await isLive(made.body.secret.token)).toBe(false)
    const short = await openAs(house, root, 1, { life_seconds: 30 })
    const below = await childOf(house, root, short, leaf, 3)
    const other = await leaf.credential(below, RO)
    await house.advance(31)
    expect(await isLive(other.body.secret.token)).toBe(false)
    expect((await leaf.credential(below, RO)).status).toBe(401)
  })
})

describe('a quarantine of what is above', () => {
  const cases: [string, object][] = [
    ['the identity of the principal', { identity: identityOf(1) }],
    ['the identity in the middle', { identity: identityOf(2) }],
    ['attributes of the principal', { repository_id: '1' }],
    ['attributes of the middle', { repository_id: '2', capability: RO }],
  ]
  it.each(cases)('%s: nothing new for whoever is below, and what is there stays', async (_, selector) => {
    const f = await family()
    const grant = await granted(leaf, f.leaf, { to: { identity: identityOf(4) } })
    await act('/v1/quarantines', { selector, ttl_seconds: 60, message: 'INC-7' })
    const quarantined = { status: 403, body: { code: 'policy_denied', reason: 'quarantined' } }
    expect(await leaf.credential(f.leaf, RO)).toMatchObject(quarantined)
    expect(await opensBelow(middle, grant, await job(house, 4))).toMatchObject(quarantined)
    expect(await isLive(f.token)).toBe(true)
    await house.advance(61)
    expect((await leaf.credential(f.leaf, RO)).status).toBe(201)
    expect((await opensBelow(middle, grant, await job(house, 4))).status).toBe(201)
  })

  it('the tombstone on a run above refuses whoever is below another task of that run', async () => {
    const run = { run_id: '4242', check_run_id: '4242' }
    const one = await root.opened({ subject_token: await job(house, 1, run) })
    const two = await root.opened({ subject_token: await job(house, 1, run) })
    const below = await childOf(house, root, two, leaf, 3)
    const other = await family()
    await act('/v1/revocations', { selector: { task: one.task }, reason: 'test' })
    expect(await leaf.credential(below, RO)).toMatchObject({ status: 403, body: { reason: 'tombstoned' } })
    expect((await asksGrant(root, two, { to: { identity: identityOf(3) } })).status).toBe(201)
    expect((await leaf.credential(other.leaf, RO)).status).toBe(201)
  })
})
