/** Owns what a resource server is told of a caller, and the signal that ends what it does for it. */
import type { Ending } from './live.js'
import type { Mode } from './settings.js'
import type { Reach, Verified } from './token.js'

/** Calls once at its end, at once when that was before. Answers how to let go. */
export type Watch = (verified: Verified, end: (why: Ending) => void) => () => void

export interface SeenContext {
  readonly mode: Mode
  readonly staleMs: number | null
  readonly watch: Watch
}

/** What the signal is aborted with. */
export class CredentialEnded extends Error {
  override readonly name = 'CredentialEnded'
  constructor(readonly code: Ending) {
    super(code === 'revoked' ? 'the credential is revoked' : 'the token is expired')
  }
}

/** A class for the getter's sake: on the prototype it is not looked at by whoever logs or copies what it is told. */
class Caller {
  /** `crd_…` */
  readonly credential: string
  /** Whose authority it is. */
  readonly subject: string
  /** Who acts, when another does: outermost first. */
  readonly actors: readonly { readonly identity: string; readonly issuer: string | null }[]
  readonly client: string
  readonly task: string
  /** The tasks above, nearest first. */
  readonly ancestors: readonly string[]
  readonly capabilities: readonly string[]
  readonly scopes: readonly string[]
  /** Which acts, and where they hold. */
  readonly reach: readonly Reach[]
  /** The key that it is bound to. */
  readonly jkt: string | null
  readonly issuedAt: Date
  readonly expiresAt: Date
  readonly claims: Readonly<Record<string, unknown>>
  /** How the answer was found (I9), and how old what it rests on may be. */
  readonly mode: Mode
  readonly staleMs: number | null
  readonly #verified: Verified
  readonly #watch: Watch
  #controller: AbortController | null = null
  #gone: (() => void) | null = null

  constructor(verified: Verified, { mode, staleMs, watch }: SeenContext) {
    const { names } = verified
    this.credential = names.credential
    this.subject = verified.subject
    this.actors = verified.actors
    this.client = verified.client
    this.task = names.task as string
    this.ancestors = names.ancestors
    this.capabilities = names.capabilities
    this.scopes = verified.scopes
    this.reach = verified.reach
    this.jkt = verified.jkt
    this.issuedAt = new Date(names.issuedAt * 1000)
    this.expiresAt = new Date(verified.expiresAt * 1000)
    this.claims = verified.claims
    this.mode = mode
    this.staleMs = staleMs
    this.#verified = verified
    this.#watch = watch
  }

  /** Fires when the credential is revoked or expires. Watched from the first look at it until `release`, or its end. */
  get signal(): AbortSignal {
    if (this.#controller === null) {
      const controller = new AbortController()
      this.#controller = controller
      this.#gone = this.#watch(this.#verified, why => controller.abort(new CredentialEnded(why)))
    }
    return this.#controller.signal
  }

  /** Done with it: its end is not watched any more. The adapters call this for you. */
  release(): void {
    this.#gone?.()
    this.#gone = null
  }

  static behind(seen: object, watch: Watch): Verified | null {
    return #verified in seen && seen.#watch === watch ? seen.#verified : null
  }
}

/** What `verify` answers: one caller, for one request. */
export type Seen = Pick<Caller, keyof Caller>

export const seenOf = (verified: Verified, context: SeenContext): Seen => new Caller(verified, context)

/** What stands behind what a guard answered; null when it was another's answer, or nobody's. @param watch that guard's own. */
export const verifiedBehind = (seen: Seen, watch: Watch): Verified | null => Caller.behind(seen, watch)
