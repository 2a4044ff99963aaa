/** Owns what a resource server is told of a caller, and the signal that ends what it does for it. */
import type { Ending } from './live.js'
import type { Mode } from './settings.js'
import type { Reach, Verified } from './token.js'

export interface Seen {
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
  /** Fires when the credential is revoked or expires. Watched from the first look at it until `release`, or its end. */
  readonly signal: AbortSignal
  /** Done with it: its end is not watched any more. The adapters call this for you. */
  release(): void
}

export interface SeenContext {
  readonly mode: Mode
  readonly staleMs: number | null
  readonly watch: (verified: Verified, end: (why: Ending) => void) => () => void
}

/** What the signal is aborted with. */
export class CredentialEnded extends Error {
  override readonly name = 'CredentialEnded'
  constructor(readonly code: Ending) {
    super(code === 'revoked' ? 'the credential is revoked' : 'the token is expired')
  }
}

/** A class for the getter's sake: on the prototype it is not looked at by whoever logs or copies what it is told. */
class SeenCaller implements Seen {
  readonly credential: string
  readonly subject: string
  readonly actors: Seen['actors']
  readonly client: string
  readonly task: string
  readonly ancestors: readonly string[]
  readonly capabilities: readonly string[]
  readonly scopes: readonly string[]
  readonly reach: readonly Reach[]
  readonly jkt: string | null
  readonly issuedAt: Date
  readonly expiresAt: Date
  readonly claims: Readonly<Record<string, unknown>>
  readonly mode: Mode
  readonly staleMs: number | null
  readonly #watch: (end: (why: Ending) => void) => () => void
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
    this.#watch = end => watch(verified, end)
  }

  get signal(): AbortSignal {
    if (this.#controller === null) {
      const controller = new AbortController()
      this.#controller = controller
      this.#gone = this.#watch(why => controller.abort(new CredentialEnded(why)))
    }
    return this.#controller.signal
  }

  release(): void {
    this.#gone?.()
    this.#gone = null
  }
}

export const seenOf = (verified: Verified, context: SeenContext): Seen => new SeenCaller(verified, context)
