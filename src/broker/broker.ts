/** Owns the list of verbs: the broker is its deps bound to them, the one thing that HTTP, workers and tests hold. */
import type { CredentialId } from '../domain/ids.js'
import type { Reason, Selector } from '../domain/revocation.js'
import type { CommitOptions } from '../ports.js'
import { admit } from './admit.js'
import { delegate } from './delegate.js'
import type { BrokerDeps } from './deps.js'
import { describe } from './describe.js'
import { destroy } from './destroy.js'
import { evaluate } from './evaluate.js'
import { exchange } from './exchange.js'
import { closeDue } from './expire.js'
import { explain } from './explain.js'
import { giveBack } from './give-back.js'
import { recognizeHolder } from './holder.js'
import { credentialOfHolder, endTask, heartbeat } from './holder-acts.js'
import { introspect, signIntrospection } from './introspect.js'
import { issue } from './issue.js'
import { issueBundle } from './issue-bundle.js'
import { openTask } from './open-task.js'
import { rationSource } from './ration.js'
import { receipt } from './receipt.js'
import { reconcile } from './reconcile.js'
import { respond } from './respond.js'
import { revoke } from './revoke.js'
import { revokedKeys } from './revoked-keys.js'
import { runEnded } from './run-ended.js'
import { acceptSignal, handleSignal, judgeSignal } from './signal.js'
import { sweep } from './sweep.js'

type Bound<F> = F extends (deps: BrokerDeps, ...rest: infer A) => infer R ? (...rest: A) => R : never

export function createBroker(deps: BrokerDeps) {
  const bind = <F extends (deps: BrokerDeps, ...rest: never[]) => unknown>(verb: F) => ((...rest: never[]) => verb(deps, ...rest)) as Bound<F>
  return {
    rationSource: bind(rationSource),
    openTask: bind(openTask),
    exchange: bind(exchange),
    recognizeHolder: bind(recognizeHolder),
    issue: bind(issue),
    issueBundle: bind(issueBundle),
    delegate: bind(delegate),
    heartbeat: bind(heartbeat),
    endTask: bind(endTask),
    credentialOfHolder: bind(credentialOfHolder),
    giveBack: bind(giveBack),
    introspect: bind(introspect),
    signIntrospection: bind(signIntrospection),
    admit: bind(admit),
    explain: bind(explain),
    evaluate: bind(evaluate),
    describe: bind(describe),
    acceptSignal: bind(acceptSignal),
    judgeSignal: bind(judgeSignal),
    runEnded: bind(runEnded),
    revoke: (selector: Selector, reason: Reason, options: CommitOptions) => revoke(deps, selector, reason, options),
    respond: bind(respond),
    receipt: bind(receipt),
    revokedKeys: bind(revokedKeys),
    /** What is due and what stands behind acts. */
    expireDue: bind(closeDue),
    destroy: (id: CredentialId, version: number | null, signal: AbortSignal) => destroy(deps, id, version, signal),
    handleSignal: bind(handleSignal),
    sweep: bind(sweep),
    reconcile: bind(reconcile),
  }
}

export type Broker = ReturnType<typeof createBroker>
