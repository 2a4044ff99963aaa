/** What reconcile takes for an orphan: what no row knows, and what died before it was listed. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { Reconcilable, UpstreamThing } from '../../src/ports.js'
import { type Caller, caller } from '../caller.js'
import { type House, makeHouse } from '../house.js'

let house: House
let ci: Caller
/** Upstream: what it lists, and what happens while it does. */
let things: UpstreamThing[]
let meanwhile: () => Promise<void>
let destroyed: string[]

beforeAll(async () => {
  house = await makeHouse()
  ci = await caller(house)
  const upstream: Reconcilable = {
    name: 'upstream',
    engines: [],
    async list() {
      const listed = [...things]
      await meanwhile()
      return listed
    },
    destroyUpstream: async ({ ref }) => void destroyed.push(ref),
  }
  ;(house.app.deps.reconcilables as Reconcilable[]).push(upstream)
})
afterAll(() => house?.close())
beforeEach(() => {
  things = []
  meanwhile = async () => {}
  destroyed = []
})

const reconcile = () => house.app.broker.reconcile(AbortSignal.timeout(10_000))
const thing = (kind: UpstreamThing['kind'], ref: string, credential: string | null, ageSeconds = 3_600): UpstreamThing => ({
  ...{ kind, ref, ageSeconds },
  credential: credential as UpstreamThing['credential'],
})
async function issued() {
  const held = await ci.opened({ capabilities: ['demo/orders-ro'] })
  const { body } = await ci.credential(held, 'demo/orders-ro')
  const end = async () => {
    await ci.as(held, 'post', `/v1/tasks/${held.task}/complete`, {})
    await house.work()
    expect(await house.app.store.credentials.get(body.credential.id)).toMatchObject({ state: 'revoked' })
  }
  return { id: body.credential.id as string, end }
}

describe('an orphan', () => {
  it('is not what died while it was listed, and is what still lives at the next listing', async () => {
    const { id, end } = await issued()
    things = [thing('accessor', 'a', id)]
    await reconcile()
    meanwhile = end
    await reconcile()
    expect(destroyed).toEqual([])
    meanwhile = async () => {}
    await house.advance(1)
    await reconcile()
    expect(destroyed).toEqual(['a'])
  })
  it('is a token or a lease without a row, once it is older than any issue in flight', async () => {
    things = [thing('lease', 'old', null), thing('lease', 'young', null, 59), thing('accessor', 'unknown', `crd_${'0'.repeat(26)}`)]
    await reconcile()
    expect(destroyed).toEqual(['old', 'unknown'])
  })
  it('is of the users at a target, which others may share, only one whose row says that it is dead', async () => {
    const [alive, dead] = [await issued(), await issued()]
    await dead.end()
    // The store's time is known here to some milliseconds.
    await house.advance(1)
    things = [thing('user', 'theirs', `crd_${'0'.repeat(26)}`), thing('user', 'alive', alive.id), thing('user', 'dead', dead.id)]
    await reconcile()
    expect(destroyed).toEqual(['dead'])
  })
})
