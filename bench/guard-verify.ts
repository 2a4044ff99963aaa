/** Owns the figures of one verification: a guard without and with its cache, and with proofs, beside bare jose, in turn and in slices so that what else the machine does hits all alike. */
import { createHash } from 'node:crypto'
import { calculateJwkThumbprint, EmbeddedJWK, importJWK, type JSONWebKeySet, jwtVerify } from 'jose'
import type { Guard } from '../src/guard/guard.js'
import { type Minted, type TestIssuer, testIssuer } from '../src/guard/testing.js'
import { middle, type Report, spread } from './report.js'

const ROUNDS = 5
const SLICES = 20
const SLICE = 200
const TOKENS = 1_000
const WIDTH = 32
const HITS = 20
const PROOFS = 400
/** Revocations that the guards hold meanwhile, of none of these tokens. */
const ENTRIES = 1_000

interface Measured {
  readonly perSecond: number
  readonly cpuMicros: number
  readonly took: readonly number[]
}
type Act = (i: number) => Promise<unknown>

/** Slices of the contenders in turn; each pays for its own. */
async function inTurn(acts: readonly { readonly act: Act; readonly times: number }[], width: number): Promise<Measured[]> {
  const sums = acts.map(() => ({ ms: 0, cpu: 0, n: 0, took: [] as number[] }))
  for (let slice = 0; slice < SLICES; slice++) {
    for (const [at, { act, times }] of acts.entries()) {
      const sum = sums[at] as (typeof sums)[number]
      const n = SLICE * times
      const from = slice * n
      const cpu = process.cpuUsage()
      const began = performance.now()
      if (width === 1) {
        for (let i = 0; i < n; i++) {
          const since = performance.now()
          await act(from + i)
          sum.took.push(performance.now() - since)
        }
      } else {
        let next = 0
        const hand = async () => {
          for (let i = next++; i < n; i = next++) await act(from + i)
        }
        await Promise.all(Array.from({ length: width }, hand))
      }
      sum.ms += performance.now() - began
      const used = process.cpuUsage(cpu)
      sum.cpu += used.user + used.system
      sum.n += n
    }
  }
  return sums.map(s => ({ perSecond: (s.n / s.ms) * 1000, cpuMicros: s.cpu / s.n, took: s.took }))
}

/** What node:http hands over, with the headers that a request usually has. */
const requestOf = (headers: Record<string, string>) => ({
  method: 'GET',
  url: '/orders/17',
  headers,
  rawHeaders: ['Host', 'orders.test', 'User-Agent', 'bench', 'Accept', '*/*', 'Connection', 'keep-alive', ...Object.entries(headers).flat()],
})

export async function benchVerify(report: Report): Promise<void> {
  report.title(
    `a. one verification  (${ROUNDS} rounds of ${SLICES} slices in turn, ${TOKENS.toLocaleString('en')} tokens, ES256; ${ENTRIES.toLocaleString('en')} entries in the index)`,
  )
  const issuer = await testIssuer()
  try {
    const tokens = await Promise.all(Array.from({ length: TOKENS }, () => issuer.mint({ scope: 'orders:read', bound: false })))
    for (let i = 0; i < ENTRIES; i++) await issuer.revoke({ [i % 2 === 0 ? 'task' : 'identity']: `another-${i}` })
    const [plain, cached] = [await issuer.guard({ cacheSize: 0 }), await issuer.guard({ cacheSize: TOKENS })]
    const key = await publicKey(issuer, tokens[0] as Minted)
    const requests = await Promise.all(tokens.map(async t => requestOf(await t.headers('GET', ''))))
    const bare: Act = i =>
      jwtVerify((tokens[i % TOKENS] as Minted).token, key, { issuer: issuer.issuer, audience: issuer.audience, algorithms: ['ES256'], typ: 'at+jwt' })
    const by =
      (guard: Guard): Act =>
      i =>
        guard.verify(requests[i % TOKENS] as (typeof requests)[number], { scope: 'orders:read' })
    await inTurn(
      [bare, by(plain), by(cached)].map(act => ({ act, times: 1 })),
      1,
    )
    for (const width of [1, WIDTH]) await compare(report, width, bare, by(plain), by(cached))
    await withProofs(report, issuer)
  } finally {
    issuer.close()
  }
}

async function compare(report: Report, width: number, bare: Act, plain: Act, cached: Act): Promise<void> {
  const rounds: Measured[][] = []
  for (let round = 0; round < ROUNDS; round++) {
    rounds.push(
      await inTurn(
        [
          { act: bare, times: 1 },
          { act: plain, times: 1 },
          { act: cached, times: HITS },
        ],
        width,
      ),
    )
  }
  const of = (at: number) => rounds.map(r => r[at] as Measured)
  const rate = (at: number) => middle(of(at).map(m => m.perSecond))
  const cpu = (at: number) => middle(of(at).map(m => m.cpuMicros)).toFixed(1)
  const ratio = (at: number) => rounds.map(r => (r[at] as Measured).perSecond / (r[0] as Measured).perSecond)
  const range = (list: readonly number[]) => `${Math.min(...list).toFixed(2)}–${Math.max(...list).toFixed(2)}`
  const name = width === 1 ? 'one after the other' : `${width} in flight`
  report.figure({ what: `${name}: bare jose.jwtVerify`, value: rate(0), unit: '/s', note: `${cpu(0)} µs of CPU` })
  report.figure({ what: `${name}: guard without cache`, value: rate(1), unit: '/s', note: `${cpu(1)} µs of CPU` })
  report.figure({ what: `${name}: guard, token in its cache`, value: rate(2), unit: '/s', note: `${cpu(2)} µs of CPU` })
  if (width > 1) report.say('bare jose has its signatures checked by the other cores as well; what a core does for one is the CPU above')
  report.figure({ what: `${name}: without cache against bare`, value: middle(ratio(1)), unit: 'x', goal: { least: 0.9 }, note: range(ratio(1)) })
  report.figure({ what: `${name}: with cache against bare`, value: middle(ratio(2)), unit: 'x', goal: { least: 20 }, note: range(ratio(2)) })
  if (width > 1) return
  const told = (at: number) => spread(of(at).flatMap(m => m.took))
  report.figure({ what: `${name}: without cache, p99`, value: told(1).p99, unit: 'ms', goal: { most: 0.3 }, note: `bare p99 ${told(0).p99.toFixed(3)}` })
  report.figure({ what: `${name}: with cache, p99`, value: told(2).p99, unit: 'ms', goal: { most: 0.3 } })
}

/** For information: a proof is a second signature, and it is looked at every time. */
async function withProofs(report: Report, issuer: TestIssuer): Promise<void> {
  const url = `${new URL(issuer.audience).origin}/orders/17`
  const cached = await issuer.guard({ proof: 'required' })
  const minted = await issuer.mint({ scope: 'orders:read' })
  const key = await publicKey(issuer, minted)
  const rates: [number, number][] = []
  for (let round = 0; round < ROUNDS; round++) {
    const made = await Promise.all(Array.from({ length: PROOFS }, () => minted.headers('GET', url)))
    const requests = made.map(requestOf)
    const timed = async (act: Act) => {
      const began = performance.now()
      for (let i = 0; i < PROOFS; i++) await act(i)
      return (PROOFS / (performance.now() - began)) * 1000
    }
    const bare = await timed(async i => {
      await jwtVerify(minted.token, key, { issuer: issuer.issuer, audience: issuer.audience, algorithms: ['ES256'], typ: 'at+jwt' })
      const { protectedHeader, payload } = await jwtVerify((made[i] as Record<string, string>).dpop as string, EmbeddedJWK, { typ: 'dpop+jwt' })
      const isHolder =
        (await calculateJwkThumbprint(protectedHeader.jwk as object)) !== '' && payload.ath === createHash('sha256').update(minted.token).digest('base64url')
      if (!isHolder) throw new Error('a proof of the bench is not good')
    })
    rates.push([bare, await timed(i => cached.verify(requests[i] as (typeof requests)[number], { scope: 'orders:read' }))])
  }
  report.figure({ what: 'with a proof each: bare jose, both signatures', value: middle(rates.map(r => r[0])), unit: '/s' })
  report.figure({
    what: 'with a proof each: guard, token in its cache',
    value: middle(rates.map(r => r[1])),
    unit: '/s',
    note: `${middle(rates.map(r => r[1] / r[0])).toFixed(2)} of bare`,
  })
}

async function publicKey(issuer: TestIssuer, { kid }: Minted) {
  const answer = await issuer.fetch(`${issuer.issuer}/.well-known/jwks.json`, {})
  const { keys } = (await answer.json()) as JSONWebKeySet
  return importJWK(keys.find(k => k.kid === kid) ?? {}, 'ES256')
}
