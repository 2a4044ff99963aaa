/** Verb: answer an application's question (AuthZEN Authorization API 1.0) by the rules that issue and introspect. Nothing is granted, and the answer is in the decision log. */
import type { Audience, Capability } from '../domain/capability.js'
import type { Credential } from '../domain/credential.js'
import { type Decision, Grant, strictest } from '../domain/decision.js'
import { CurfewError, type ErrorCode } from '../domain/errors.js'
import { isId, namedId, newId } from '../domain/ids.js'
import type { NewTask, Task, TaskAttestation } from '../domain/task.js'
import type { Attributes } from '../domain/workload.js'
import type { Context, IntendOptions } from '../ports.js'
import { type Ask, audienceOf, decideBelow, demandFresh } from './authorize.js'
import type { BrokerDeps } from './deps.js'
import { demandDeclared, demandOpen, termsOf } from './grant.js'
import { tasksAbove } from './redeem.js'

export interface Question {
  readonly subject: { readonly type: string; readonly id: string }
  /** Of a workload, and nobody's word but the asker's. */
  readonly claimed: Claimed | null
  readonly action: string
  readonly resource: { readonly type: string; readonly id: string }
  readonly purpose: string
  readonly labels: Readonly<Record<string, string>>
  readonly ttlSeconds: number | null
  /** Whether it would prove a key. */
  readonly proof: boolean
}

export interface Claimed {
  readonly issuer: string
  readonly attributes: Attributes
  /** Counts where the agent has it, not the issuer. */
  readonly owner: string | null
  readonly evidenceAgeSeconds: number
  readonly run: string | null
}

export type Asker = { readonly kind: 'operator'; readonly id: string } | { readonly kind: 'server'; readonly audience: Audience }

export async function evaluate(deps: BrokerDeps, question: Question, asker: Asker, requestId: string | null): Promise<Decision> {
  const context: Context = { requestId, actor: { kind: asker.kind, id: asker.kind === 'server' ? asker.audience.name : asker.id } }
  const judged = await judge(deps, question, asker, context)
  const { subject, action, resource } = question
  const asked = { by: `${context.actor.kind}:${context.actor.id}`, action, resource: `${resource.type}:${resource.id}`, subject: subject.type }
  const decision: Decision = { ...judged, attributes: { ...judged.attributes, asked } }
  deps.meter.decided(decision.allowed ? 'permitted' : 'denied', decision.reason)
  await deps.store.decisions.note(decision, context)
  return decision
}

async function judge(deps: BrokerDeps, question: Question, asker: Asker, context: Context): Promise<Decision> {
  const { subject } = question
  const meant = meantBy(deps, question, asker)
  if (meant.length === 0) return unknown(deps, question, 'resource_unknown')
  switch (subject.type) {
    case 'credential': {
      const credential = isId('credential', subject.id) ? await deps.store.credentials.get(subject.id) : null
      // To a resource server the credentials of others do not exist (I10).
      if (!credential || (asker.kind === 'server' && credential.audience !== asker.audience.uri)) return unknown(deps, question, 'subject_unknown')
      return isIssuing(question.action) ? firstPermit(meant, c => toTask(deps, credential.task, c, question, context)) : use(deps, credential, meant)
    }
    case 'task':
      return firstPermit(meant, c => toTask(deps, subject.id, c, question, context))
    case 'workload':
      return firstPermit(meant, c => toWorkload(deps, c, question, context))
    default:
      return unknown(deps, question, 'subject_unknown')
  }
}

/** As the token-issuance profile spells it: `issue:<token-type>:<grant-type>`. */
const isIssuing = (action: string) => /^issue(:|$)/.test(action)

/** What the resource and the action can mean: a scope, or the intent, of a capability. A resource server asks of its own alone. */
function meantBy(deps: BrokerDeps, { resource, action }: Question, asker: Asker): readonly Capability[] {
  const at = (c: Capability) => audienceOf(deps, c)
  const isAt = (c: Capability, audience: string) => at(c)?.uri === audience || at(c)?.name === audience
  return [...deps.capabilities.values()]
    .filter(c => (resource.type === 'capability' ? c.name === resource.id : resource.type === 'audience' && isAt(c, resource.id)))
    .filter(c => asker.kind === 'operator' || at(c)?.uri === asker.audience.uri)
    .filter(c => isIssuing(action) || c.intent === action || c.scopes.includes(action))
}

/** The first that is permitted; when none is, the first denial. */
async function firstPermit(meant: readonly Capability[], judgeOne: (capability: Capability) => Promise<Decision>): Promise<Decision> {
  const decisions: Decision[] = []
  for (const capability of meant) {
    const decision = await judgeOne(capability)
    if (decision.allowed) return decision
    decisions.push(decision)
  }
  return decisions[0] as Decision
}

/** May this credential be used so: what introspection and the guards would say of it. */
async function use(deps: BrokerDeps, credential: Credential, meant: readonly Capability[]): Promise<Decision> {
  const isLive = (await deps.store.credentials.live(credential.id)) !== null
  const reaches = meant.some(c => c.name === credential.capability)
  const permit = await deps.store.decisions.get(credential.decision)
  if (!permit) throw new TypeError('the decision of a credential is kept as long as it')
  return {
    ...permit,
    id: newId('decision'),
    at: deps.store.clock.now(),
    allowed: isLive && reaches,
    task: credential.task,
    policies: isLive && reaches ? permit.policies : [],
    reason: isLive ? (reaches ? 'permitted' : 'out_of_reach') : 'not_live',
  }
}

/** Would this task be given one now. */
async function toTask(deps: BrokerDeps, id: string, capability: Capability, question: Question, context: Context): Promise<Decision> {
  const task = isId('task', id) ? await deps.store.tasks.get(id) : null
  if (!task) return unknown(deps, question, 'subject_unknown')
  const above = await tasksAbove(deps, task)
  const ask: Ask = {
    attestation: task.attestation,
    capability,
    task: { ...task, depth: task.ancestors.length },
    ttlSeconds: question.ttlSeconds,
    proof: true,
  }
  return asIfIssued(deps, ask, above, permit => {
    demandOpen(task)
    demandDeclared(task, capability)
    return { grant: Grant.from(permit, termsOf(deps, task, above, capability.name, question.ttlSeconds, {})), options: { context } }
  })
}

/** Would a workload of which this is true be given one now, for a task of its own. */
async function toWorkload(deps: BrokerDeps, capability: Capability, question: Question, context: Context): Promise<Decision> {
  const attestation = attestationOf(deps, question)
  if (typeof attestation === 'string') return unknown(deps, question, attestation)
  const { purpose, labels, proof, ttlSeconds } = question
  const task: NewTask = {
    id: newId('task'),
    purpose,
    capabilities: [capability.name],
    parent: null,
    ancestors: [],
    actors: [],
    owner: attestation.owner,
    labels,
    lifeSeconds: deps.tasks.defaultLifeSeconds,
    heartbeatSeconds: null,
    attestation,
    jkt: 'of-the-workload',
  }
  const deadlineAt = new Date(deps.store.clock.now().getTime() + task.lifeSeconds * 1000)
  return asIfIssued(deps, { attestation, capability, task: { ...task, id: null, depth: 0 }, ttlSeconds, proof }, [], permit => {
    const terms = termsOf(deps, { ...task, deadlineAt }, [], capability.name, ttlSeconds, {})
    return { grant: Grant.from(permit, { ...terms, jkt: proof ? terms.jkt : null }), options: { context, open: { task, decisions: [] } } }
  })
}

const DENIALS: ReadonlySet<ErrorCode> = new Set(['policy_denied', 'task_ended', 'attestation_stale', 'not_found'])

interface Foreseen {
  readonly grant: Grant
  readonly options: Pick<IntendOptions, 'context' | 'open'>
}

/** Policy's word, and then all that stands between a permit and a credential, up to the markers under their locks; what only the making would show is left out. */
async function asIfIssued(deps: BrokerDeps, ask: Ask, above: readonly Task[], grantOf: (permit: Decision) => Foreseen): Promise<Decision> {
  const [own, ...others] = decideBelow(deps, ask, above)
  const denied = (reason: string): Decision => ({ ...own, allowed: false, policies: [], reason })
  if (!own.allowed) return own
  if (others.some(d => !d.allowed)) return denied('parent_denied')
  const permit = strictest(own, others)
  try {
    demandFresh(deps, ask.attestation, ask.capability)
    const { grant, options } = grantOf(permit)
    await deps.store.credentials.foresee(grant, options)
    return permit
  } catch (error) {
    if (!(error instanceof CurfewError) || !DENIALS.has(error.code)) throw error
    return denied(error.facts.reason ?? error.code)
  }
}

/** What an attestor would have made of evidence that said so; a word where none could have. */
function attestationOf(deps: BrokerDeps, { subject, claimed }: Question): TaskAttestation | 'issuer_unknown' | 'identity_mismatch' {
  const issuer = claimed && deps.issuers.get(claimed.issuer)
  if (!claimed || !issuer) return 'issuer_unknown'
  if (!subject.id.startsWith(issuer.identityPrefix)) return 'identity_mismatch'
  const { kind, profile, strength, owner } = issuer.attests
  // In whole seconds, as evidence has it: a cut-off of this second lies after it.
  const evidenceAt = new Date((Math.floor(deps.store.clock.now().getTime() / 1000) - claimed.evidenceAgeSeconds) * 1000)
  return {
    issuer: claimed.issuer,
    issuerId: namedId('issuer', claimed.issuer),
    kind,
    profile,
    identity: subject.id,
    identityId: namedId('identity', subject.id),
    owner: kind === 'registered' ? claimed.owner : owner,
    attributes: claimed.attributes,
    strength,
    evidenceAt,
    expiresAt: evidenceAt,
    run: claimed.run,
    digest: 'claimed',
  }
}

/** There is nothing of ours to decide on; that it was asked is kept all the same. */
function unknown(deps: BrokerDeps, { subject, resource }: Question, reason: string): Decision {
  return {
    id: newId('decision'),
    at: deps.store.clock.now(),
    allowed: false,
    identity: subject.id,
    issuer: 'unknown',
    capability: resource.id,
    task: null,
    policies: [],
    digest: deps.policy.digest,
    obligations: { maxTtlSeconds: null, requireProof: false },
    reason,
    explanation: null,
    attributes: {},
  }
}
