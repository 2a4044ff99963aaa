/** Owns what the time of an answer tells (H24): each secret that a caller may guess at, known beside unknown, one request after the other in random order. */
import { randomBytes, randomInt } from 'node:crypto'
import { Agent, request } from 'undici'
import { isAbsent } from '../src/dev/find.js'
import { newId } from '../src/domain/ids.js'
import { mannWhitney } from './mann-whitney.js'
import { middle, startRun } from './report.js'
import { BILLING, startWorld, type World } from './world.js'

export interface TimingBenchOptions {
  readonly json: string | null
  /** Of each side of a pair: 10,000. */
  readonly samples: number | null
}

/** Milliseconds; a difference that is smaller tells nobody anything over a network. */
const MOST = 0.2
const CERTAIN = 0.001
/** Not counted: connections, caches and compilers warm up. */
const WARM = 100

/** Makes one request ready, so that the clock sees nothing but its way and the broker's work. */
type Ready = () => Promise<{ path: string; method: 'GET' | 'POST'; headers: Record<string, string>; body?: string }>
interface Pair {
  readonly what: string
  readonly known: Ready
  readonly unknown: Ready
  /** What both must be answered. */
  readonly status: number
  /** A difference that is no secret, and that must be found: else this bench sees nothing. */
  readonly isControl?: true
}

export async function benchTiming(options: TimingBenchOptions): Promise<number> {
  const samples = options.samples ?? 10_000
  const bench = startRun()
  const { report } = bench
  report.say(`${bench.machine}; load average before ${bench.loadBefore}; ${samples} samples a side`)
  const world = await startWorld({ audiences: [BILLING] })
  if (isAbsent(world)) {
    process.stderr.write(`skipped: ${world.absent}\n`)
    return 1
  }
  const agent = new Agent({ connections: 1 })
  try {
    report.title('what the time of an answer tells')
    for (const pair of await pairsOf(world)) {
      const { known, unknown } = await sampled(world, agent, pair, samples)
      const { p } = mannWhitney(known, unknown)
      const [a, b] = [middle(known), middle(unknown)]
      report.say(`${pair.what}: medians ${a.toFixed(3)} and ${b.toFixed(3)} ms, p = ${p.toPrecision(2)}`)
      // What chance alone makes is no difference.
      const isCertain = p < CERTAIN
      const note = isCertain ? `${(a - b).toFixed(3)} ms by the medians, p = ${p.toPrecision(2)}` : `none at p < ${CERTAIN}`
      if (pair.isControl) report.figure({ what: pair.what, value: isCertain ? 1 : 0, unit: 'found', goal: { least: 1 }, note })
      else report.figure({ what: pair.what, value: isCertain ? Math.abs(a - b) : 0, unit: 'ms', goal: { most: MOST }, note })
    }
  } finally {
    await agent.close()
    await world.close()
  }
  bench.end(options.json, { samples })
  return report.figures.every(f => f.isMet !== false) ? 0 : 1
}

async function sampled(world: World, agent: Agent, pair: Pair, samples: number): Promise<{ known: number[]; unknown: number[] }> {
  const known: number[] = []
  const unknown: number[] = []
  const one = async (ready: Ready): Promise<number> => {
    const { path, ...rest } = await ready()
    const since = process.hrtime.bigint()
    const { statusCode, body } = await request(world.server + path, { dispatcher: agent, ...rest })
    await body.dump()
    const took = Number(process.hrtime.bigint() - since) / 1e6
    if (statusCode !== pair.status) throw new Error(`${pair.what}: answered ${statusCode}, not ${pair.status}`)
    return took
  }
  for (let i = -WARM; i < samples; i++) {
    // Whichever comes first finds another state of caches than the second.
    const first = randomInt(2) === 0
    const took = first ? [await one(pair.known), await one(pair.unknown)] : [await one(pair.unknown), await one(pair.known)].reverse()
    if (i < 0) continue
    known.push(took[0] as number)
    unknown.push(took[1] as number)
  }
  return { known, unknown }
}

async function pairsOf(world: World): Promise<Pair[]> {
  const mine = await world.open()
  const theirs = await world.issue('456790')
  const credential =
    (idOf: () => string): Ready =>
    async () => {
      const path = `/v1/credentials/${idOf()}`
      return { method: 'GET', path, headers: { authorization: `DPoP ${mine.token}`, dpop: await world.workload.proof('GET', world.server + path, mine.token) } }
    }
  const introspect =
    (tokenOf: () => string, by = 'billing'): Ready =>
    async () => ({
      method: 'POST',
      path: '/oauth2/introspect',
      headers: { 'content-type': 'application/x-www-form-urlencoded', authorization: world.basic(by) },
      body: new URLSearchParams({ token: tokenOf() }).toString(),
    })
  const operator =
    (tokenOf: () => string): Ready =>
    async () => ({ method: 'GET', path: '/v1/guards', headers: { authorization: `Bearer ${tokenOf()}` } })
  // The prefix is no secret, and the last character of a text in base 62 or 64 may say less than a whole one.
  const at = world.operatorToken.lastIndexOf('_') + 1
  const altered = (text: string, index: number) => `${text.slice(0, index)}${text[index] === 'A' ? 'B' : 'A'}${text.slice(index + 1)}`
  const forged = () => `${theirs.token.slice(0, theirs.token.lastIndexOf('.') + 1)}${randomBytes(64).toString('base64url')}`
  return [
    {
      what: 'a credential of another holder beside one that does not exist',
      status: 404,
      known: credential(() => theirs.id),
      unknown: credential(() => newId('credential')),
    },
    {
      what: 'introspection: another server’s token beside one that nobody signed',
      status: 200,
      known: introspect(() => theirs.token),
      unknown: introspect(forged),
    },
    {
      what: 'an operator’s token that is wrong at its end beside one at its beginning',
      status: 401,
      known: operator(() => altered(world.operatorToken, world.operatorToken.length - 2)),
      unknown: operator(() => altered(world.operatorToken, at)),
    },
    {
      what: 'to compare: a server’s own live token beside one that nobody signed',
      status: 200,
      known: introspect(() => theirs.token, 'orders'),
      unknown: introspect(forged, 'orders'),
      isControl: true,
    },
  ]
}
