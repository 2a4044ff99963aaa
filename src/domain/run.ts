/** Owns how a job run is called, one job of it or a whole attempt: what a tombstone refuses, and what its provider says is over. */
import type { IssuerId } from './ids.js'

/** The longest that a runner may go on, of any provider: 35 days. */
export const LONGEST_RUN_SECONDS = 3_024_000

/** By ids of the provider, none of which may hold a colon. */
export interface JobRun {
  /** Whom a source must be registered for to speak about it: an owner of repositories (GitHub), a project (GitLab, CircleCI), a pipeline (Buildkite). */
  readonly owner: string
  /** What the job is within, the widest first: GitHub's repository, run and attempt; a pipeline, a build, a workflow of the others. */
  readonly within: readonly string[]
  /** `''` where the issuer names none; EVERY_JOB for all jobs of it. */
  readonly job: string
}

export const EVERY_JOB = '*'

/** With the owner first: whoever may speak about one owner's runs can name no run of another (T73). */
export const nameRun = (issuer: string, r: JobRun): string => [issuer, r.owner, ...r.within, r.job].join(':')

/** What all jobs of the same attempt share, as they are called together. */
export const attemptOf = (run: string): string => `${run.slice(0, run.lastIndexOf(':'))}:${EVERY_JOB}`

/** A run that its provider says is over. */
export interface EndedRun {
  readonly issuerId: IssuerId
  /** Of one job, or an attempt (`attemptOf`). */
  readonly run: string
  /** The configured source that said so. */
  readonly source: string
  /** The provider's own word for how it went. */
  readonly conclusion: string
}

export const isAttempt = (run: string): boolean => run.endsWith(`:${EVERY_JOB}`)
