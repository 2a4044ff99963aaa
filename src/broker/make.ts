/** Verb: make what was granted. Write down what you are about to make, make it, write down that you made it, hand it over: in that order and no other. */
import { fp } from '#failpoint'
import type { Credential, Handle } from '../domain/credential.js'
import { within } from '../domain/deadline.js'
import type { Grant } from '../domain/decision.js'
import { CurfewError, ofPart } from '../domain/errors.js'
import { byBroker } from '../domain/revocation.js'
import type { Secret } from '../domain/secret.js'
import type { Context, CredentialEngine, IntendOptions, Made, Minted } from '../ports.js'
import { engineFor, recordingDenials } from './authorize.js'
import type { BrokerDeps } from './deps.js'
import { hurryExpiry } from './hurry.js'
import { revoke } from './revoke.js'
import { tellReplaced } from './tell-replaced.js'

export interface Issued {
  readonly credential: Credential
  readonly secret: Secret
}

/** To undo what no row leads to. */
const UNDO_MS = 5_000

/** Handed over within this of being settled, or revoked instead: a process that slept must not deliver (security.md 3.3). */
const HAND_OVER_MS = 10_000

/**
 * The common road of all ways in: grants of one task, and what their transaction consumes and opens. All are handed over, in their
 * order, or none is; what fails for one of several names it.
 */
export async function make(deps: BrokerDeps, grants: readonly Grant[], options: IntendOptions, signal: AbortSignal): Promise<readonly Issued[]> {
  const began = performance.now()
  const count = (result: 'ok' | 'failed') => {
    for (const { terms } of grants) deps.meter.issued(terms.capability.name, terms.attestation.issuer, result, (performance.now() - began) / 1000)
  }
  const judged: IntendOptions = { ...options, isInForce: digest => digest === deps.policy.digest }
  const [only, ...others] = grants
  const isLocal = only && others.length === 0 && engineFor(deps, only.terms.capability.engine).local
  try {
    const issued = await recordingDenials(
      deps,
      grants.map(g => g.decision),
      options.context,
      () => (isLocal ? signAndRecord(deps, only, judged, signal) : makeAndSettle(deps, grants, judged, signal)),
    )
    for (const { credential } of issued) await hurryExpiry(deps, credential)
    // What this replaced is refused by introspection already; the sweep tells the others, should this not.
    if (options.idempotency) await tellReplaced(deps).catch(error => deps.log.warn({ err: error }, 'what was replaced is told by the sweep'))
    count('ok')
    return issued
  } catch (cause) {
    count('failed')
    throw cause
  }
}

/** One of a local kind: a signed secret without a committed row is garbage that nobody holds, so one transaction after signing is enough. */
async function signAndRecord(deps: BrokerDeps, grant: Grant, options: IntendOptions, signal: AbortSignal): Promise<readonly Issued[]> {
  return withKeyInUse(deps, async () => {
    const minted = await engineFor(deps, grant.terms.capability.engine).mint(grant, null, signal)
    return [{ credential: await deps.store.credentials.record(grant, minted, options), secret: minted.secret }]
  })
}

/** A key may be withdrawn while we hold it to be good: once more then, with the one that took its place. */
async function withKeyInUse<T>(deps: BrokerDeps, signAndWrite: () => Promise<T>): Promise<T> {
  try {
    return await signAndWrite()
  } catch (error) {
    if (!(error instanceof CurfewError) || error.facts.reason !== 'key_revoked') throw error
    await deps.signer.refresh()
    return signAndWrite()
  }
}

/** One credential on its way, alone or as a part of a bundle. */
interface Part {
  readonly grant: Grant
  readonly engine: CredentialEngine
  credential: Credential
  /** Made, and no row leads to it. */
  unrecorded: Handle | null
  /** Made, and its row does not say so yet. */
  minted: Minted | null
}

/** Kinds that live at a target, and bundles. Whatever fails after `intend` ends all parts in a revocation; what that cannot finish, the sweep will. */
async function makeAndSettle(deps: BrokerDeps, grants: readonly Grant[], options: IntendOptions, signal: AbortSignal): Promise<readonly Issued[]> {
  const intended = await deps.store.credentials.intend(grants, options)
  const parts = grants.map((grant, i): Part => {
    const engine = engineFor(deps, grant.terms.capability.engine)
    return { grant, engine, credential: intended[i] as Credential, unrecorded: null, minted: null }
  })
  try {
    await fp('issue.3')
    await together(deps, parts, (part, goOn) => (part.engine.local ? null : makeAtTarget(deps, part, goOn, signal)))
    const { made, settled } = await withKeyInUse(deps, async () => {
      // After the others: what they may yet fail for is not signed in vain.
      await together(deps, parts, part => (part.engine.local ? sign(part, signal) : null))
      const made = parts.map(({ credential, minted }): Made => ({ credential, minted: minted as Minted }))
      return { made, settled: await deps.store.credentials.settle(made, options.context) }
    })
    const settledAt = performance.now()
    if (!settled) throw overtaken()
    for (const [i, part] of parts.entries()) {
      part.credential = settled[i] as Credential
      part.minted = null
    }
    await fp('issue.5a')
    await together(deps, parts, part => part.engine.extend?.(part.credential, signal))
    await fp('issue.5b')
    if (performance.now() - settledAt > HAND_OVER_MS)
      throw new CurfewError('unavailable', 'it took too long to hand the credential over', { reason: 'handover_late' })
    await fp('issue.6')
    return made.map(({ minted }, i) => ({ credential: settled[i] as Credential, secret: minted.secret }))
  } catch (cause) {
    // The caller hears the first cause.
    const told = isOvertaken(cause) ? await namingEnded(deps, parts, cause) : cause
    await Promise.all(parts.map(part => undo(deps, part, options.context)))
    throw told
  }
}

/** @param goOn throws when another part has failed: what has not begun does not begin any more. */
async function makeAtTarget(deps: BrokerDeps, part: Part, goOn: () => void, signal: AbortSignal): Promise<void> {
  const { grant, engine } = part
  const handle = engine.prepare ? await engine.prepare(grant, signal) : null
  part.unrecorded = handle
  await fp('issue.4a')
  if (handle) {
    const recorded = await recordHandle(deps, part.credential, handle)
    if (!recorded) throw overtaken()
    part.unrecorded = null
    part.credential = recorded
  }
  await fp('issue.4b')
  goOn()
  part.minted = await engine.mint(grant, handle, signal)
  await fp('issue.4c')
}

async function sign(part: Part, signal: AbortSignal): Promise<void> {
  part.minted = await part.engine.mint(part.grant, null, signal)
}

/**
 * All parts side by side, as engines are asked by many callers side by side. What one has begun is let come to its end when another
 * fails: an answer that nobody waits for may leave something at the target that no row leads to.
 */
async function together(deps: BrokerDeps, parts: readonly Part[], act: (part: Part, goOn: () => void) => Promise<void> | null | undefined): Promise<void> {
  const failures: unknown[] = []
  const goOn = () => {
    if (failures.length > 0) throw failures[0]
  }
  const run = async (part: Part, i: number) => {
    try {
      await act(part, goOn)
    } catch (cause) {
      if (cause === failures[0]) return
      if (!(cause instanceof CurfewError)) deps.meter.engineFailed(part.engine.kind, 'issue')
      failures.push(cause instanceof CurfewError && !isOvertaken(cause) && parts.length > 1 ? ofPart(cause, i, part.grant.terms.capability.name) : cause)
    }
  }
  await Promise.all(parts.map(run))
  goOn()
}

/** Never throws: what it cannot do is left to the sweep, or to the thing's own short life. */
async function undo(deps: BrokerDeps, { engine, credential, unrecorded, minted }: Part, context: Context): Promise<void> {
  const warn = (message: string) => (error: unknown) => deps.log.warn({ err: error, credential: credential.id }, message)
  // No row leads to it: whoever holds the handle destroys it.
  if (unrecorded) await engine.destroy({ ...credential, handle: unrecorded }, within(UNDO_MS)).catch(warn('what no row knows of is left to its own end'))
  // Before the revocation, so that whoever destroys it knows all that there is. What only its own end can end was handed to nobody, and needs no end.
  if (minted && engine.revocation !== 'expiry-only' && Object.keys(minted.handle).length > 0)
    await deps.store.credentials.noteHandle(credential.id, minted.handle).catch(warn('what was made is left to a listing'))
  await revoke(deps, { kind: 'credential', key: credential.id }, 'issuance_failed', { actor: byBroker('issue'), requestId: context.requestId }).catch(
    warn('a failed issue is left to the sweep'),
  )
}

/** Whether it was written may be unknown: then the row says (security.md 3.3, 4b). Null: overtaken. */
async function recordHandle(deps: BrokerDeps, credential: Credential, handle: Handle): Promise<Credential | null> {
  try {
    return await deps.store.credentials.recordHandle(credential, handle)
  } catch (cause) {
    const row = await deps.store.credentials.get(credential.id).catch(() => null)
    if (row?.state === 'pending' && row.version === credential.version + 1 && row.handle) return row
    throw cause
  }
}

const overtaken = () => new CurfewError('task_ended', 'the credential was revoked while it was being made', { reason: 'overtaken' })
const isOvertaken = (error: unknown): error is CurfewError => error instanceof CurfewError && error.code === 'task_ended' && error.facts.reason === 'overtaken'

/** Of several, names the one whose row was ended, unless the rows of all were: then their task was. */
async function namingEnded(deps: BrokerDeps, parts: readonly Part[], error: CurfewError): Promise<CurfewError> {
  if (parts.length === 1) return error
  const rows = await Promise.all(parts.map(part => deps.store.credentials.get(part.credential.id))).catch(() => [])
  const ended = rows.findIndex(row => row?.state !== 'pending')
  const part = rows.some(row => row?.state === 'pending') ? parts[ended] : undefined
  return part ? ofPart(error, ended, part.grant.terms.capability.name) : error
}
