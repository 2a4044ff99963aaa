/** Owns how a job run is called, one job of it or a whole attempt: what a tombstone refuses, and what its provider says is over. */
import type { IssuerId } from './ids.js'

/** The longest that a runner may go on, of any provider: 35 days. */
export const LONGEST_RUN_SECONDS = 3_024_000

export interface GithubRun {
  readonly owner: string
  readonly repository: string
  readonly run: string
  readonly attempt: string
  /** The check run of the job, `''` where the issuer names none; EVERY_JOB for all jobs of the attempt. */
  readonly job: string
}

export const EVERY_JOB = '*'

/** With the owner: whoever may speak about one owner's runs can name no run of another (T73). */
export const githubRun = (issuer: string, r: GithubRun): string => [issuer, r.owner, r.repository, r.run, r.attempt, r.job].join(':')

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
