/** Owns selection by attributes: what may be asked of a task, all of which must hold. It is resolved when an act is committed. */
import type { TaskAttestation } from './task.js'

export interface Where {
  readonly identity?: string
  /** By its configured name or its id. */
  readonly issuer?: string
  /** Declared when the task was opened. */
  readonly capability?: string
  readonly repositoryId?: string
  readonly workflowRef?: string
  readonly workflowSha?: string
  readonly runId?: string
  readonly actor?: string
  readonly owner?: string
  readonly labels?: Readonly<Record<string, string>>
  /** The URI of an audience, the kind of an engine: of a live credential of the task. */
  readonly audience?: string
  readonly engine?: string
  /** A live credential was issued in this time, or the task was opened in it. Both ends count. */
  readonly issuedAfter?: Date
  readonly issuedBefore?: Date
}

/** The attested facts that each of these may stand for: a reusable workflow has its own ref and SHA, an actor a name and a number. */
export const ATTESTED = {
  repositoryId: ['repository_id'],
  workflowRef: ['workflow_ref', 'job_workflow_ref'],
  workflowSha: ['workflow_sha', 'job_workflow_sha'],
  runId: ['run_id'],
  actor: ['actor', 'actor_id'],
} as const satisfies Partial<Record<keyof Where, readonly string[]>>

/** What a quarantine may rest on: facts that the workload cannot choose. Labels it writes itself, and a time in the past nothing new can have. */
export const QUARANTINABLE = [
  'identity',
  'issuer',
  'capability',
  'repositoryId',
  'workflowRef',
  'workflowSha',
  'runId',
  'actor',
  'owner',
] as const satisfies readonly (keyof Where)[]

export type Workload = Pick<TaskAttestation, 'identity' | 'issuer' | 'issuerId' | 'attributes' | 'owner'>

/** @param capabilities what is asked for; one of them suffices. Says nothing of audiences, engines, labels and times. */
export function holdsFor(where: Where, workload: Workload, capabilities: readonly string[]): boolean {
  if (where.identity !== undefined && where.identity !== workload.identity) return false
  if (where.issuer !== undefined && where.issuer !== workload.issuer && where.issuer !== workload.issuerId) return false
  if (where.capability !== undefined && !capabilities.includes(where.capability)) return false
  if (where.owner !== undefined && where.owner !== workload.owner) return false
  return Object.entries(ATTESTED).every(([name, facts]) => {
    const wanted = where[name as keyof typeof ATTESTED]
    return wanted === undefined || facts.some(fact => workload.attributes[fact] === wanted)
  })
}

/** One text for one meaning, whatever the order it was written in. */
export function canonical(where: Where): string {
  const known = Object.entries(where).filter(([, value]) => value !== undefined)
  const plain = known.map(([name, value]) => [
    name,
    value !== null && typeof value === 'object' && !(value instanceof Date) ? Object.entries(value).sort() : value,
  ])
  return JSON.stringify(plain.sort(([a], [b]) => (String(a) < String(b) ? -1 : 1)))
}

/** Back from JSON, where instants are text. */
export function whereOf(json: Readonly<Record<string, unknown>>): Where {
  const { issuedAfter, issuedBefore, ...rest } = json
  return {
    ...rest,
    ...(issuedAfter === undefined ? {} : { issuedAfter: new Date(issuedAfter as string) }),
    ...(issuedBefore === undefined ? {} : { issuedBefore: new Date(issuedBefore as string) }),
  }
}
