/** I7 as a property: in whatever chain, what is below is a part of what is above and of policy, ends no later, and tells the truth of whose work it is. */
import fc from 'fast-check'
import { decodeJwt } from 'jose'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Task } from '../../src/domain/task.js'
import { type Caller, caller } from '../caller.js'
import { asksGrant, DB, delegationHouse, identityOf, job, opensBelow, RO } from '../delegation.js'
import type { House } from '../house.js'

const BEARER = 'demo/orders-bearer'
const ALL = [RO, DB, BEARER]
let house: House
let keys: Caller[]
beforeAll(async () => {
  house = await delegationHouse()
  keys = await Promise.all(Array.from({ length: 3 }, () => caller(house)))
})
afterAll(() => house?.close())

/** Mostly all, or chains would end before they are long. */
const capabilities = fc.oneof(
  { weight: 3, arbitrary: fc.constant(ALL) },
  { weight: 1, arbitrary: fc.uniqueArray(fc.constantFrom(...ALL), { minLength: 1, maxLength: 3 }) },
)
/** Never so short that it ends while the chain is made: time is the machine's own here. */
const life = fc.option(fc.integer({ min: 150, max: 4_000 }), { nil: undefined })
const link = fc.record({
  /** Who the child is; null: whoever holds the key, without evidence. */
  repository: fc.option(fc.integer({ min: 1, max: 6 }), { nil: null }),
  key: fc.nat({ max: 2 }),
  granted: capabilities,
  asked: capabilities,
  grantLife: life,
  life,
})

it('I7: capabilities, ends and actors of random chains', async () => {
  let opened = 0
  let refused = 0
  let deepest = 0
  await fc.assert(
    fc.asyncProperty(capabilities, fc.integer({ min: 150, max: 4_000 }), fc.array(link, { minLength: 1, maxLength: 9 }), async (top, seconds, links) => {
      let who = keys[0] as Caller
      const first = await who.open({ subject_token: await job(house, 1), capabilities: top, life_seconds: seconds })
      expect(first.status).toBe(201)
      let held = { task: first.body.task.id, token: first.body.token }
      let parent = (await house.app.store.tasks.get(held.task as never)) as Task
      for (const l of links) {
        const child = keys[l.key] as Caller
        const to = l.repository === null ? { jkt: child.jkt } : { identity: identityOf(l.repository) }
        const grant = await asksGrant(who, held, { capabilities: l.granted, to, ...(l.grantLife === undefined ? {} : { life_seconds: l.grantLife }) })
        const isWide = !l.granted.every(c => parent.capabilities.includes(c))
        expect(grant.status).toBe(isWide || parent.ancestors.length === 5 ? 403 : left(parent) < 5 ? 409 : 201)
        if (grant.status !== 201) {
          refused++
          continue
        }
        const answer = await opensBelow(child, grant.body.grant, l.repository === null ? undefined : await job(house, l.repository), {
          capabilities: l.asked,
          ...(l.life === undefined ? {} : { life_seconds: l.life }),
        })
        const identity = l.repository === null ? parent.attestation.identity : identityOf(l.repository)
        const isCircle = identity !== parent.attestation.identity && parent.actors.some(a => a.identity === identity)
        const mayOpen = l.asked.every(c => l.granted.includes(c)) && !isCircle
        if (answer.status !== 201) {
          if (mayOpen) expect(answer.body.reason).toBe('too_little_time')
          refused++
          continue
        }
        expect(mayOpen).toBe(true)
        opened++
        deepest = Math.max(deepest, parent.ancestors.length + 1)
        const task = (await house.app.store.tasks.get(answer.body.task.id)) as Task
        expect(task.capabilities.every(c => parent.capabilities.includes(c) && l.granted.includes(c))).toBe(true)
        expect(task.deadlineAt.getTime()).toBeLessThanOrEqual(parent.deadlineAt.getTime())
        if (l.grantLife !== undefined) expect(task.deadlineAt.getTime() - task.openedAt.getTime()).toBeLessThanOrEqual(l.grantLife * 1000)
        expect(task).toMatchObject({ parent: parent.id, ancestors: [parent.id, ...parent.ancestors], owner: parent.owner, jkt: child.jkt })
        held = { task: task.id, token: answer.body.token }
        who = child
        parent = task
        await tellsTheTruth(who, held, task)
      }
    }),
    { numRuns: 25 },
  )
  // Both happen, or nothing was shown.
  expect({ opened: opened > 20, refused: refused > 10, deep: deepest >= 3 }, `${opened} opened, ${refused} refused, ${deepest} deep`).toEqual({
    opened: true,
    refused: true,
    deep: true,
  })
}, 120_000)

const left = (t: Task) => Math.floor((t.deadlineAt.getTime() - house.app.store.clock.now().getTime()) / 1000)

async function tellsTheTruth(who: Caller, held: { task: string; token: string }, task: Task): Promise<void> {
  for (const capability of ALL) {
    const made = await who.credential(held, capability, { ttl_seconds: 3_000 })
    if (!task.capabilities.includes(capability)) expect(made).toMatchObject({ status: 403, body: { reason: 'not_declared' } })
    else if (made.status !== 201) expect(['capability_full', 'too_little_time']).toContain(made.body.reason)
    else {
      expect(Date.parse(made.body.credential.expires_at)).toBeLessThanOrEqual(task.deadlineAt.getTime())
      if (!made.body.secret.token) continue
      const claims = decodeJwt(made.body.secret.token)
      expect((claims.exp as number) * 1000).toBeLessThanOrEqual(task.deadlineAt.getTime())
      expect(claims.sub).toBe(task.actors.at(-1)?.identity ?? task.attestation.identity)
      const chain: string[] = []
      for (let act = claims.act as { sub: string; act?: never } | undefined; act; act = act.act) chain.push(act.sub)
      expect(chain).toEqual(task.actors.length === 0 ? [] : [task.attestation.identity, ...task.actors.slice(0, -1).map(a => a.identity)])
    }
  }
}
