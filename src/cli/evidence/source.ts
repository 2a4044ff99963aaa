/** Owns what a source of evidence is, and how it says that there is none: one line, with the next step in its provider's own words. */
import { CliError, EXIT } from '../exit.js'

export type EvidenceType = 'urn:ietf:params:oauth:token-type:id_token' | 'urn:ietf:params:oauth:token-type:jwt'

export const ID_TOKEN: EvidenceType = 'urn:ietf:params:oauth:token-type:id_token'
export const JWT: EvidenceType = 'urn:ietf:params:oauth:token-type:jwt'

export interface EvidenceSource {
  /** For people: where it came from. */
  readonly name: string
  readonly type: EvidenceType
  /**
   * Variables that all commands of one CI job have and no other job has. The broker ties such evidence to the first key that it comes
   * with, so that the job keeps one, sealed under them (job-seal.ts). Empty: every command has a key of its own.
   */
  readonly job: readonly string[]
  /**
   * The variables that hold it, or by which more of it is had: a command that is run with what it was granted does not get what it was
   * granted on. Missing where it comes by a file, a socket or a program, which cannot be taken from a child.
   */
  readonly variables?: readonly string[]
  /** What to do about a refusal, by the broker's reason, where this provider's users know it by another name. */
  readonly advice: Readonly<Record<string, string>>
  /** @param audience the server's own name for itself. A new token where the source can make one, the same one where it cannot. */
  fresh(audience: string, signal: AbortSignal): Promise<string>
}

export type Env = Readonly<Record<string, string | undefined>>

export interface Surroundings {
  readonly env: Env
  /** What evidence should be for, as far as one can tell before the server was asked: for advice only. */
  readonly audience: string
  /** Where a projected volume with our audience is mounted by convention. */
  readonly kubernetesFile: string
}

/** One place where jobs run. */
export interface Platform {
  readonly name: 'github' | 'gitlab' | 'buildkite' | 'circleci' | 'azure' | 'bitbucket' | 'kubernetes' | 'spiffe'
  /** Null: this is another place. An error: it is this one, and something is missing. Looks at nothing but the environment and the file system. */
  detect(around: Surroundings): EvidenceSource | CliError | null
  /** What it would take, for who names it elsewhere. */
  readonly needs: string
}

export function missing(detail: string, next: string, annotate = false): CliError {
  return new CliError(EXIT.refused, { code: 'evidence_missing', detail, next, ...(annotate ? { annotation: `::error::curfew: ${detail}; ${next}` } : {}) })
}

export const unavailable = (detail: string, next?: string, cause?: unknown) =>
  new CliError(EXIT.refused, { code: 'evidence_unavailable', detail, ...(next === undefined ? {} : { next }) }, { cause })

/** A token has three parts and no space; anything else is a mistake that should not travel. */
export function shaped(token: string, where: string): string {
  if (/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) return token
  throw unavailable(`${where} holds no signed token (JWT)`)
}

/** Runs what shows this evidence, and adds to a refusal what the source knows about it. */
export async function advised<T>(source: EvidenceSource, act: () => Promise<T>): Promise<T> {
  try {
    return await act()
  } catch (error) {
    const reason = error instanceof CliError ? error.problem.reason : undefined
    const next = typeof reason === 'string' ? source.advice[reason] : undefined
    if (next === undefined) throw error
    const { exit, problem } = error as CliError
    throw new CliError(exit, { ...problem, next }, { cause: error })
  }
}
