/** Owns how the command line fails: the exit codes (ux.md 3.2) and the one error that carries a problem to them. */

export const EXIT = {
  done: 0,
  /** Our bug, or an answer that nobody promised. */
  unexpected: 1,
  usage: 2,
  /** Attestation or proof refused. */
  refused: 3,
  denied: 4,
  approval: 5,
  /** Unknown, expired, already ended. */
  gone: 6,
  limited: 7,
  unreachable: 8,
  degraded: 9,
  /** Partly done: stuck, still revoking, or expiry-only. */
  partly: 10,
  conflict: 11,
  /** `run` and the processes we start, by docker's convention: ours failed, cannot be executed, not found. */
  ours: 125,
  cannotExecute: 126,
  notFound: 127,
} as const

/** What the server said, in its own words (RFC 9457 with our members, or OAuth's), or what we say in the same shape. */
export interface Problem {
  readonly code: string
  readonly detail: string
  readonly [member: string]: unknown
}

const BY_CODE: Readonly<Record<string, number>> = {
  malformed: EXIT.usage,
  attestation_refused: EXIT.refused,
  attestation_stale: EXIT.refused,
  proof_refused: EXIT.refused,
  policy_denied: EXIT.denied,
  forbidden: EXIT.denied,
  approval_needed: EXIT.approval,
  capability_unknown: EXIT.gone,
  target_unknown: EXIT.gone,
  task_ended: EXIT.gone,
  not_found: EXIT.gone,
  conflict: EXIT.conflict,
  rate_limited: EXIT.limited,
  engine_failed: EXIT.degraded,
  unavailable: EXIT.degraded,
}

/** By the problem's code; by the HTTP status when a proxy answered in its place. */
export function exitOf(code: string, status: number): number {
  const known = BY_CODE[code]
  if (known !== undefined) return known
  if (status === 401) return EXIT.refused
  if (status === 403) return EXIT.denied
  if (status === 404 || status === 410 || status === 422) return EXIT.gone
  if (status === 409) return EXIT.conflict
  if (status === 429) return EXIT.limited
  if (status === 502 || status === 503 || status === 504) return EXIT.degraded
  return status >= 400 && status < 500 ? EXIT.usage : EXIT.unexpected
}

/** A refusal that people and machines may read: nothing in it is secret. */
export class CliError extends Error {
  override readonly name = 'CliError'
  constructor(
    readonly exit: number,
    readonly problem: Problem,
    options: { cause?: unknown } = {},
  ) {
    super(problem.detail, options)
  }
}

/** The caller's mistake. @param next what to type instead. */
export function usage(detail: string, next?: string): CliError {
  return new CliError(EXIT.usage, { code: 'usage', detail, ...(next === undefined ? {} : { next }) })
}

const SIGNAL_NUMBERS: Readonly<Record<string, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGABRT: 6,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGPIPE: 13,
  SIGALRM: 14,
  SIGTERM: 15,
}

/** 128 + n, as shells count deaths by signal. */
export async function exitOfSignal(signal: string): Promise<number> {
  const known = SIGNAL_NUMBERS[signal]
  if (known !== undefined) return 128 + known
  const { constants } = await import('node:os')
  return 128 + ((constants.signals as Record<string, number>)[signal] ?? 0)
}
