/** Verb: how often may they ask, and for how many different things. In memory, for each replica by itself: nothing that ends anything is rationed, and nobody waits for Redis. */
import type { Breadth } from '../domain/breadth.js'
import { CurfewError } from '../domain/errors.js'
import { namedId } from '../domain/ids.js'
import type { Limiter, Tally } from '../domain/rate.js'
import { OURSELVES } from '../domain/signal.js'
import type { TaskAttestation } from '../domain/task.js'
import type { BrokerDeps } from './deps.js'
import { acceptSignal } from './signal.js'

/** Null: not limited. */
export interface Limits {
  /** By the address that a request comes from, before anything of it is verified. */
  readonly source: Limiter | null
  /** By the identity as it was attested, letter by letter: another token, or another spelling of a token, is no other share (T46, T61). */
  readonly identity: Limiter | null
  readonly breadth: { readonly of: Breadth; readonly capabilities: number; readonly withinSeconds: number } | null
  /** A refusal for each request would let whoever is refused write the audit log. */
  readonly told: Tally
  /** Milliseconds that only go forward. */
  readonly monotonic: () => number
}

/** So often is one key's refusal told. Milliseconds. */
export const TELL_MS = 60_000

const REFUSALS = {
  source: { reason: 'source_rate', message: 'too many requests come from this address', next: 'wait for retry_after seconds' },
  identity: {
    reason: 'identity_rate',
    message: 'this workload asks too often',
    next: 'wait for retry_after seconds; the same evidence is still good then',
  },
} as const

export const rationSource = (deps: BrokerDeps, source: string): void => ration(deps, 'source', source)

/** After the identity is believed and before anything is written: what is refused here has used up neither evidence nor proof. */
export const rationIdentity = (deps: BrokerDeps, identity: string): void => ration(deps, 'identity', identity)

function ration({ limits, meter }: BrokerDeps, limit: keyof typeof REFUSALS, key: string): void {
  const now = limits.monotonic()
  const waitMs = limits[limit]?.take(key, now) ?? 0
  if (waitMs === 0) return
  meter.rateLimited(limit)
  const { reason, message, next } = REFUSALS[limit]
  throw new CurfewError('rate_limited', message, {
    reason,
    ...(limit === 'identity' ? { identity: key } : {}),
    retryAfterSeconds: Math.ceil(waitMs / 1000),
    next,
    repeats: { limit, key, untold: limits.told.tell(`${limit} ${key}`, now) },
  })
}

/** Denied or not: whoever looks around is mostly denied. What the rules make of the signal is in force before the asking goes on; that it fails stops nobody. */
export async function noteBreadth(deps: BrokerDeps, { identity }: Pick<TaskAttestation, 'identity'>, asked: readonly string[], requestId: string | null) {
  const { breadth, monotonic } = deps.limits
  if (!breadth?.of.note(identity, asked, monotonic())) return
  const { capabilities, withinSeconds } = breadth
  const occurredAt = deps.store.clock.now()
  try {
    await acceptSignal(
      deps,
      OURSELVES,
      {
        // The same on every replica, so that several of them make one.
        eventId: `breadth:${namedId('identity', identity)}:${Math.floor(occurredAt.getTime() / (withinSeconds * 1000))}`,
        type: 'curfew.breadth',
        severity: 'medium',
        subject: { kind: 'identity', key: identity },
        occurredAt,
        detail: `asked for ${capabilities} different capabilities within ${withinSeconds} seconds`,
      },
      requestId,
    )
  } catch (error) {
    deps.log.error({ err: error, identity }, 'somebody asks for very much, and the signal of it could not be raised')
  }
}
