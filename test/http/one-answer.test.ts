/** Owns that there is one set of rules: what is issued is what AuthZEN permits, and what may be used is the same at every door, before and after every act. */
import fc from 'fast-check'
import { decodeJwt } from 'jose'
import { describe, expect, it } from 'vitest'
import { type AllDoors, type Ask, CAPABILITIES, type CapabilityName, type DoorsWorld, type Held, openDoors, SCOPES, type Word } from './doors-world.js'

/** CURFEW_DOORS_SEED=n repeats a run. */
const SEED = Number(process.env.CURFEW_DOORS_SEED ?? 20_261_127)
const REQUESTS = 1_000
/** Of those that hold something, so many are asked again after each act. */
const KEPT = 10
const AGAIN = 3

type Target = 'credential' | 'task' | 'identity' | 'issuer' | 'capability' | 'repository_id' | 'actor' | 'label' | 'all'
type Act =
  | { readonly kind: 'request'; readonly ask: Ask; readonly scope: string; readonly other: CapabilityName }
  | { readonly kind: 'revoke' | 'quarantine'; readonly target: Target; readonly at: number }
  | { readonly kind: 'lift' | 'complete'; readonly at: number }
  | { readonly kind: 'wait'; readonly seconds: number }
  | { readonly kind: 'rules'; readonly other: boolean }

/** The first so many times as often as each of the others. */
const often = <T>(first: T, weight: number, ...others: readonly T[]) =>
  fc.oneof({ weight, arbitrary: fc.constant(first) }, ...others.map(o => ({ weight: 1, arbitrary: fc.constant(o) })))
const capability = fc.constantFrom(...(Object.keys(CAPABILITIES) as CapabilityName[]))
const at = fc.nat(KEPT - 1)
const requestArb = fc.record({
  kind: fc.constant('request' as const),
  ask: fc.record({
    evidence: fc.record({
      from: often<Ask['evidence']['from']>('github', 7, 'reporter', 'triage', 'former'),
      repository: often('1', 7, '2', '3'),
      ref: often('refs/heads/main', 5, 'refs/tags/v1'),
      event: often('push', 4, 'schedule'),
      runner: often<string | null>('github-hosted', 5, 'self-hosted', null),
      actor: fc.constantFrom('dana', 'sam', 'kim', 'lee'),
      // A run that was revoked is over: most jobs are of another.
      run: fc.oneof({ weight: 1, arbitrary: fc.nat(5) }, { weight: 9, arbitrary: fc.nat(100_000) }).map(String),
      ageSeconds: often(0, 4, 5, 29, 30, 31, 60, 61, 90),
    }),
    capability,
    purpose: often('report', 3, 'nightly'),
    labels: fc.constantFrom({}, { ticket: 'open' }, { ticket: 'open', team: 'data' }),
    ttl: often<number | null>(null, 4, 60, 120, 121, 900),
    key: fc.nat(3),
  }),
  scope: fc.constantFrom(...SCOPES),
  other: capability,
})
const target = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom<Target>('credential', 'task', 'actor', 'label') },
  { weight: 1, arbitrary: fc.constantFrom<Target>('identity', 'issuer', 'capability', 'repository_id', 'all') },
)
const actArb: fc.Arbitrary<Act> = fc.oneof(
  { weight: 100, arbitrary: requestArb },
  { weight: 10, arbitrary: fc.record({ kind: fc.constant('revoke' as const), target, at }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('quarantine' as const), target, at }) },
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('lift' as const), at }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('complete' as const), at }) },
  { weight: 20, arbitrary: fc.record({ kind: fc.constant('wait' as const), seconds: often(1, 3, 2, 10, 61, 301) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('rules' as const), other: often(false, 5, true) }) },
)

/** As many acts as it takes for so many requests. */
function actsOf(seed: number, requests: number): readonly Act[] {
  const acts = fc.sample(actArb, { seed, numRuns: requests * 2 })
  let left = requests
  const end = acts.findIndex(a => a.kind === 'request' && --left === 0)
  return acts.slice(0, end + 1)
}

interface Seen {
  readonly disagreements: string[]
  readonly counts: Record<string, number>
}

/** Plays the acts, and asks every door after each. Stops at the first disagreement. */
async function play(world: DoorsWorld, doors: AllDoors, acts: readonly Act[]): Promise<Seen> {
  const seen: Seen = { disagreements: [], counts: {} }
  const kept: Held[] = []
  const quarantines: string[] = []
  const tell = (words: Readonly<Record<string, Word>>) =>
    Object.entries(words)
      .map(([door, w]) => `${door}: ${w.yes ? 'yes' : 'no'} (${w.why})`)
      .join(', ')
  const agree = (what: string, about: unknown, words: Readonly<Record<string, Word>>): boolean => {
    const answers = new Set(Object.values(words).map(w => w.yes))
    if (answers.size > 1) seen.disagreements.push(`${what}: ${tell(words)}; of ${JSON.stringify(about)}`)
    const counted = `${what}: ${[...answers][0] ? 'yes' : 'no'}`
    seen.counts[counted] = (seen.counts[counted] ?? 0) + 1
    return answers.size === 1
  }
  const used = async (held: Held, scope: string, when: string) => {
    const words = {
      'forward-auth': await doors.forwardAuth(held, scope),
      introspection: await doors.introspection(held, scope),
      authzen: await doors.authzenOfCredential(held, scope),
    }
    const past = world.seconds() - (decodeJwt(held.token).exp as number)
    // A guard has a clock of its own, and bears with 5 s; whoever asks us does not need to.
    const all = past >= 0 && past < 5 ? words : { ...words, guard: await doors.guard(held, scope) }
    return agree(`use ${when}`, { ...held, token: undefined, taskToken: undefined, scope }, all)
  }
  const ownScope = ({ ask }: Held) => CAPABILITIES[ask.capability].scopes[0] as string

  for (const [i, act] of acts.entries()) {
    await world.settled()
    switch (act.kind) {
      case 'request': {
        const evidence = await world.evidence(act.ask.evidence)
        const authzen = await doors.authzenOfWorkload(act.ask, evidence)
        const { held, ...issued } = await doors.tokenEndpoint(act.ask, evidence)
        agree('issue', act.ask, { 'token endpoint': issued, authzen })
        const [known] = kept.slice(-1)
        if (known) {
          const words = {
            authzen: await doors.authzenOfTask(known, act.other, act.ask.ttl),
            'task endpoint': await doors.taskEndpoint(known, act.other, act.ask.ttl),
          }
          agree('issue to a task', { ...known.ask, other: act.other, ttl: act.ask.ttl }, words)
        }
        if (!held) break
        kept.push(held)
        if (kept.length > KEPT) kept.shift()
        await used(held, ownScope(held), 'at once')
        await used(held, act.scope, 'of any scope')
        break
      }
      case 'revoke':
      case 'quarantine': {
        const on = kept[act.at % Math.max(1, kept.length)]
        const selector = on && selectorOf(act.target, on, act.kind === 'revoke')
        if (!selector) break
        const body = act.kind === 'revoke' ? { selector, reason: 'INC-204' } : { selector, ttl_seconds: 400 }
        const { status, body: answer } = await world.operator('POST', act.kind === 'revoke' ? '/v1/revocations' : '/v1/quarantines', body)
        if (status >= 300) throw new Error(`${act.kind} of ${JSON.stringify(selector)} answered ${status}`)
        if (act.kind === 'quarantine') quarantines.push(answer.quarantine.id)
        break
      }
      case 'lift':
        for (const id of quarantines.splice(0)) await world.operator('DELETE', `/v1/quarantines/${id}`, { reason: 'over' })
        break
      case 'complete': {
        const on = kept[act.at % Math.max(1, kept.length)]
        if (on) await world.complete(on)
        break
      }
      case 'wait':
        world.advance(act.seconds)
        break
      case 'rules':
        await world.otherRules(act.other)
        break
      default:
        act satisfies never
    }
    if (act.kind !== 'request') {
      await world.settled()
      for (let n = 0; n < AGAIN; n++) {
        const held = kept[(i * 7 + n * 3) % Math.max(1, kept.length)]
        if (held) await used(held, ownScope(held), `after ${act.kind}`)
      }
    }
    if (seen.disagreements.length > 0) {
      seen.disagreements.push(`at act ${i} of seed ${SEED}: ${JSON.stringify(act)}`)
      break
    }
  }
  return seen
}

/** What is written of it; null where such a thing cannot be the target. */
function selectorOf(target: Target, held: Held, isRevocation: boolean): object | null {
  const { ask } = held
  const isCi = ask.evidence.from === 'github'
  const identity = isCi ? `github:repository_id=${ask.evidence.repository}` : `agents:agent=${ask.evidence.from}`
  switch (target) {
    case 'credential':
      return isRevocation ? { credential: held.credential } : null
    case 'task':
      return isRevocation ? { task: held.task } : null
    case 'identity':
      return { identity }
    case 'issuer':
      return { issuer: isCi ? 'github' : 'agents' }
    case 'capability':
      return { capability: ask.capability }
    case 'repository_id':
      return isCi ? { repository_id: ask.evidence.repository } : null
    case 'actor':
      return isCi ? { actor: ask.evidence.actor } : null
    case 'label':
      return isRevocation && Object.keys(ask.labels).length > 0 ? { label: ask.labels } : null
    case 'all':
      return isRevocation ? { all: true } : null
    default:
      return target satisfies never
  }
}

async function inWorld<T>(act: (world: DoorsWorld) => Promise<T>): Promise<T> {
  const world = await openDoors()
  try {
    return await act(world)
  } finally {
    await world.close()
  }
}

describe('one set of rules', { timeout: 300_000 }, () => {
  it(`${REQUESTS} generated requests get the same answer at the token endpoint, the task's own, the guard, forward-auth, introspection and AuthZEN (seed ${SEED})`, async () => {
    const { disagreements, counts } = await inWorld(world => play(world, world.doors, actsOf(SEED, REQUESTS)))
    expect(disagreements).toEqual([])
    // Both words of every question were heard, and often.
    console.info(`all doors, seed ${SEED}: ${JSON.stringify(counts)}`)
    for (const what of ['issue', 'issue to a task', 'use of any scope', 'use after revoke', 'use after wait', 'use after complete'])
      for (const word of ['yes', 'no']) expect({ what, word, enough: (counts[`${what}: ${word}`] ?? 0) >= 20 }).toEqual({ what, word, enough: true })
  })

  const no: Word = { yes: false, why: 'broken' }
  it.each<[string, (world: DoorsWorld) => AllDoors]>([
    [
      'AuthZEN that does not look for quarantines and cut-offs',
      ({ app, doors }) => {
        const { credentials } = app.store as { credentials: { foresee: unknown } }
        credentials.foresee = async () => {}
        return doors
      },
    ],
    [
      'a guard that has not heard of an act',
      ({ doors }) => ({
        ...doors,
        guard: async (held, scope) => ((CAPABILITIES[held.ask.capability].scopes as readonly string[]).includes(scope) ? { yes: true, why: 'deaf' } : no),
      }),
    ],
    [
      'forward-auth that forgets the scope',
      ({ doors }) => ({ ...doors, forwardAuth: held => doors.forwardAuth(held, CAPABILITIES[held.ask.capability].scopes[0]) }),
    ],
    [
      'introspection of any live credential of the server',
      ({ doors }) => ({ ...doors, introspection: async held => ({ ...(await doors.introspection(held, CAPABILITIES[held.ask.capability].scopes[0])) }) }),
    ],
    [
      'a token endpoint that takes every purpose for the same',
      ({ doors }) => ({ ...doors, tokenEndpoint: (ask, evidence) => doors.tokenEndpoint({ ...ask, purpose: 'report' }, evidence) }),
    ],
    [
      'AuthZEN that counts no labels',
      ({ doors }) => ({ ...doors, authzenOfWorkload: (ask, evidence) => doors.authzenOfWorkload({ ...ask, labels: {} }, evidence) }),
    ],
    ['AuthZEN of a task by the rules of a workload', ({ doors }) => ({ ...doors, authzenOfTask: async () => ({ yes: true, why: 'broken' }) })],
  ])('the twin: %s is found', async (_, breaking) => {
    const { disagreements } = await inWorld(world => play(world, breaking(world), actsOf(SEED, 400)))
    expect(disagreements.length).toBeGreaterThan(0)
  })
})
