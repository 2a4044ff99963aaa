/** Verb: a risk signal arrives. It is recorded once, matched by configuration, and acted on in the caller's process; it can only shorten. */
import { CurfewError } from '../domain/errors.js'
import { isId, newId, type QuarantineId, type RevocationId, type SignalId } from '../domain/ids.js'
import type { Selector } from '../domain/revocation.js'
import { isWaiting, type NewSignal, type Signal, type SignalAct, type SignalSubject, type Verdict } from '../domain/signal.js'
import type { BrokerDeps, SignalRule } from './deps.js'
import { revoke } from './revoke.js'

export type SignalReport = Omit<NewSignal, 'id' | 'source'>

const SEVERITIES: readonly Signal['severity'][] = ['low', 'medium', 'high', 'critical']

/** @param source authenticated by the caller. A repeat answers the first signal and acts on nothing again. */
export async function acceptSignal(deps: BrokerDeps, source: string, report: SignalReport, requestId: string | null): Promise<Signal> {
  const issuer = await issuerOf(deps, report.subject)
  if (issuer !== null) refuseOutOfScope(deps, source, issuer)
  // About something that we never issued to: recorded, answered alike, and nothing to do (P73).
  const rule = issuer === null ? null : (deps.signals.rules.find(r => matches(r, source, report)) ?? null)
  const { signal, fresh } = await deps.store.signals.accept(
    { ...report, id: newId('signal'), source },
    { rule: rule?.name ?? null, act: rule?.act ?? null },
    { requestId, actor: { kind: 'signal', id: source } },
  )
  if (!fresh || !signal.act) return signal
  try {
    return (await handleSignal(deps, signal.id)) ?? signal
  } catch (error) {
    deps.log.error({ err: error, signal: signal.id }, 'an accepted signal could not be acted on at once; a worker or the sweep will')
    await deps.queue.enqueue({ name: 'signal', signal: signal.id })
    return signal
  }
}

/** Acts on an accepted signal; harmless when it was acted on already, and while it waits for a person. */
export async function handleSignal(deps: BrokerDeps, id: SignalId): Promise<Signal | null> {
  const signal = await deps.store.signals.get(id)
  if (!signal || signal.handledAt || !signal.act || isWaiting(signal)) return signal
  const { act } = signal
  if (act.kind !== 'quarantine' && signal.verdict === null) {
    const reach = await deps.store.revocations.reach(selectorOf(signal.subject))
    // A rule that is wrong must not end everything at once: a person looks first, and is called (ux.md 2.4).
    if (Math.max(reach.credentials, reach.tasks) > act.cap) {
      await deps.store.signals.hold(id, reach)
      deps.meter.found('signal_held')
      deps.log.error(
        { signal: id, rule: signal.rule, credentials: reach.credentials, tasks: reach.tasks, cap: act.cap },
        'a signal would end more than its rule may: it waits for a person',
      )
      return deps.store.signals.get(id)
    }
  }
  await deps.store.signals.handled(id, await follow(deps, signal, act))
  return deps.store.signals.get(id)
}

/** A person's word on a signal that waits. Approved, it is acted on before the answer. */
export async function judgeSignal(deps: BrokerDeps, id: SignalId, verdict: Verdict, requestId: string | null): Promise<Signal> {
  const judged = await deps.store.signals.judge(id, verdict, { requestId, actor: verdict.by })
  return verdict.kind === 'approved' ? ((await handleSignal(deps, id)) ?? judged) : judged
}

const NOTHING = { revocation: null, quarantine: null }

async function follow(deps: BrokerDeps, signal: Signal, act: SignalAct): Promise<{ revocation: RevocationId | null; quarantine: QuarantineId | null }> {
  const context = { requestId: null, actor: { kind: 'signal', id: signal.source } as const }
  switch (act.kind) {
    case 'revoke': {
      const revocation = await revoke(deps, selectorOf(signal.subject), 'risk_signal', {
        actor: context.actor,
        message: signal.detail ?? signal.type,
      }).catch(unlessGone)
      return { ...NOTHING, revocation: revocation?.id ?? null }
    }
    case 'quarantine': {
      const asked = { id: newId('quarantine'), selector: selectorOf(signal.subject), seconds: act.seconds, message: signal.detail }
      return { ...NOTHING, quarantine: (await deps.store.quarantines.set(asked, context)).id }
    }
    case 'shorten':
      await deps.store.tasks.shorten(signal.subject, act.seconds, context)
      return NOTHING
    default:
      return act satisfies never
  }
}

/** A signal about something we never issued has nothing to end; the sender hears 202 all the same (P73). */
function unlessGone(error: unknown): null {
  if (error instanceof CurfewError && error.code === 'not_found') return null
  throw error
}

function matches(rule: SignalRule, source: string, report: SignalReport): boolean {
  if (rule.source !== undefined && rule.source !== source) return false
  if (rule.type !== undefined && rule.type !== report.type) return false
  return SEVERITIES.indexOf(report.severity) >= SEVERITIES.indexOf(rule.minSeverity)
}

/** A source speaks about identities of the trust issuers it is registered for, and about nothing else (P74). */
function refuseOutOfScope(deps: BrokerDeps, source: string, issuer: string): void {
  const issuers = deps.signals.sources.find(s => s.name === source)?.issuers ?? []
  if (!issuers.includes(issuer)) {
    throw new CurfewError('forbidden', 'this source may not speak about that subject', { reason: 'signal_out_of_scope', field: 'subject' })
  }
}

/** The trust issuer that a subject belongs to; null when it is nothing of ours, and so there is nothing to end. */
async function issuerOf(deps: BrokerDeps, subject: SignalSubject): Promise<string | null> {
  if (subject.kind === 'credential') return isId('credential', subject.key) ? ((await deps.store.credentials.get(subject.key))?.issuer ?? null) : null
  if (subject.kind === 'task') return isId('task', subject.key) ? ((await deps.store.tasks.get(subject.key))?.attestation.issuer ?? null) : null
  // By its spelling, not by what we have seen of it: a source must not cut off in advance an identity that it may not speak about.
  for (const [name, { identityPrefix }] of deps.issuers) if (subject.key.startsWith(identityPrefix)) return name
  return null
}

function selectorOf(subject: SignalSubject): Selector {
  return subject as Selector
}
