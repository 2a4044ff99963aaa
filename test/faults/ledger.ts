/** Owns the clients' own ledger: what they asked for and showed, when they heard what, and a prober that shows every token they hold, over and over. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Workload } from '../../src/dev/workload.js'
import type { Bounds } from '../narrowing.js'

export type Op = 'open' | 'issue' | 'delegate' | 'heartbeat' | 'complete' | 'revoke' | 'signal'

/** A thing that is good once (I5), by the id of its mark in the store. */
export interface Shown {
  readonly kind: 'evidence' | 'proof' | 'grant'
  readonly id: string
}

/** One operation as its client saw it; status 0 is silence, which may mean done or not done. Epoch milliseconds: the database runs on this host. */
export interface Entry {
  readonly op: Op
  readonly sentAt: number
  readonly ackAt: number
  readonly status: number
  /** What the answer names: task, credential, grant, revocation or signal. */
  readonly subject: string | null
  readonly task: string
  readonly shown: readonly Shown[]
  readonly decision?: string
  readonly problem?: string
}

/** One task of a client and what it holds. */
export interface Held {
  readonly workload: Workload
  readonly evidence: string | null
  readonly task: string
  readonly token: string
  /** Of a task below another: that one, and the grant it was opened with. */
  readonly below: { readonly parent: Held; readonly grant: string; readonly bounds: Bounds } | null
  credential: { readonly id: string; readonly kind: 'jwt' | 'db'; readonly secret: Readonly<Record<string, string>> } | null
  /** From when on no verifier may accept it: the acknowledgement of its end, and for a signal the sweep that hurries it at the latest. */
  refusedFrom: number | null
  /** The same where the whole task has ended, and all below it. */
  endedFrom: number | null
  isBySignal: boolean
}

export interface Ledger {
  readonly entries: Entry[]
  /** What must be refused: a thing shown once more, a capability that its task does not have. */
  readonly hostile: Entry[]
  readonly held: Held[]
  /** Answers `active` that came too late. */
  readonly late: { readonly credential: string; readonly askedAt: number; readonly from: number; readonly isBySignal: boolean }[]
  /** When the last fault was healed: a signal is acknowledged when it is written down, and acted upon when there is somebody to act. */
  healedAt: number
  /** Answers of the prober that were looked at. */
  probes: number
  /** When nothing may be issued: the store was down, or could not be written. */
  readonly outages: { from: number; to: number }[]
}

export const newLedger = (): Ledger => ({ entries: [], hostile: [], held: [], late: [], healedAt: 0, probes: 0, outages: [] })

/** Every secret that a client was handed or showed, of all runs: none may lie in a sink (I11). */
export const handed = new Set<string>()

/** Introspection's own bound (I1). */
export const BOUND_MS = 1_000

const isBelow = (held: Held, top: Held): boolean => held.below !== null && (held.below.parent === top || isBelow(held.below.parent, top))

/** What an acknowledged end means for all that it ends: the credential alone, or its task and everything below. */
export function noteEnd(ledger: Ledger, held: Held, from: number, options: { ofTask: boolean; isBySignal: boolean }): void {
  for (const h of [held, ...(options.ofTask ? ledger.held.filter(other => isBelow(other, held)) : [])]) {
    if (options.ofTask) h.endedFrom = Math.min(from, h.endedFrom ?? from)
    if (from >= (h.refusedFrom ?? Number.POSITIVE_INFINITY)) continue
    h.refusedFrom = from
    h.isBySignal = options.isBySignal
  }
}

/** Shows every token that a client holds or held, each about every 50 ms, until it was told off for good. */
export function startProber(asks: { introspect(token: string): Promise<boolean | null> }, ledger: Ledger): { stop(): Promise<void> } {
  const done = new Set<string>()
  let isStopping = false
  async function show(held: Held): Promise<void> {
    const { credential } = held
    if (credential?.kind !== 'jwt' || done.has(credential.id)) return
    const asked = Date.now()
    const isActive = await asks.introspect(credential.secret.token as string)
    if (isActive === null) return
    ledger.probes++
    if (held.refusedFrom === null) return
    if (isActive && asked > held.refusedFrom + BOUND_MS)
      ledger.late.push({ credential: credential.id, askedAt: asked, from: held.refusedFrom, isBySignal: held.isBySignal })
    if (!isActive && asked > held.refusedFrom + BOUND_MS * 2) done.add(credential.id)
  }
  const running = (async () => {
    while (!isStopping) {
      const next = sleep(50)
      await Promise.all(ledger.held.slice(-60).map(show))
      await next
    }
  })()
  return {
    async stop() {
      isStopping = true
      await running
    },
  }
}
