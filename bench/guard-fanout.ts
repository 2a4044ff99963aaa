/** Owns the figure of one revocation that a thousand follow, beside raw server-sent events, in turn. */
import { setTimeout as sleep } from 'node:timers/promises'
import { request } from 'undici'
import type { Order, Told } from './guard-followers.js'
import { type Hand, handOf } from './guard-hand.js'
import type { Told as RawTold } from './guard-raw.js'
import { monotonic } from './measure.js'
import { middle, type Report, spread } from './report.js'
import type { World } from './world.js'

const ROUNDS = 3
const ACTS = 15
const FOLLOWERS = 1_000

type Followers = Hand<Order, Told>
interface Fan {
  /** Of every follower and act: from the call on. */
  readonly p50: number
  readonly p99: number
  readonly max: number
  /** From the first follower to the last, of the act in the middle. */
  readonly across: number
}

export async function benchFanout(world: World, report: Report): Promise<void> {
  report.title(`d. one revocation → ${FOLLOWERS.toLocaleString('en')} followers of one replica  (${ROUNDS} rounds of ${ACTS} acts in turn)`)
  const followers: Followers = handOf<Order, Told>('./guard-followers.js')
  const raw = handOf<never, RawTold>('./guard-raw.js')
  const { port } = await raw.hear('listening')
  const rawUrl = `http://127.0.0.1:${port}`
  const rounds: { ours: Fan; bare: Fan }[] = []
  try {
    for (let round = 0; round < ROUNDS; round++) {
      const made = await Promise.all(Array.from({ length: ACTS + 3 }, () => world.issue('456790')))
      const ours = await measured(followers, world.other, world.guardKey, async () => void (await world.revoke({ credential: made.pop()?.id })))
      const bare = await measured(followers, rawUrl, 'nobody', async () => void (await (await request(rawUrl, { method: 'POST' })).body.dump()))
      rounds.push({ ours, bare })
    }
  } finally {
    await Promise.all([followers.end(), raw.end()])
  }
  const of = (who: 'ours' | 'bare', what: keyof Fan) => rounds.map(r => r[who][what])
  const say = (who: 'ours' | 'bare') =>
    `p50 ${middle(of(who, 'p50')).toFixed(1)}, max ${Math.max(...of(who, 'max')).toFixed(1)}; first to last ${middle(of(who, 'across')).toFixed(1)}; rounds ${of(
      who,
      'p99',
    )
      .map(v => v.toFixed(1))
      .join(', ')}`
  report.figure({ what: 'raw server-sent events: call → follower, p99', value: middle(of('bare', 'p99')), unit: 'ms', note: say('bare') })
  report.figure({
    what: 'revoke call → follower of the other replica, p99',
    value: middle(of('ours', 'p99')),
    unit: 'ms',
    goal: { most: 60 },
    note: say('ours'),
  })
  report.figure({ what: 'ours against raw', value: middle(rounds.map(r => r.ours.p99 / r.bare.p99)), unit: 'x' })
}

async function measured(followers: Followers, url: string, key: string, act: () => Promise<void>): Promise<Fan> {
  await followers.ask({ kind: 'follow', url, key, n: FOLLOWERS }, 'following')
  await sleep(1_500)
  const took: number[] = []
  const across: number[] = []
  for (let i = 0; i < ACTS + 3; i++) {
    await followers.ask({ kind: 'arm' }, 'armed')
    const heard = followers.hear('heard')
    const began = monotonic()
    const acted = act()
    const { at } = await heard
    await acted
    // The first few find everything cold.
    if (i >= 3) {
      took.push(...at.map(t => t - began))
      across.push(Math.max(...at) - Math.min(...at))
    }
    // Not in step with the beat.
    await sleep(60 + ((i * 37) % 90))
  }
  await followers.ask({ kind: 'leave' }, 'left')
  await sleep(300)
  return { ...spread(took), across: middle(across) }
}
