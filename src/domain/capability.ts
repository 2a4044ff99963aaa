/** Owns what can be granted: named things with their ceilings, and the audiences they are good for. */

export type IntentClass = 'read' | 'write' | 'destructive'
export type Sensitivity = 'low' | 'medium' | 'high'

/**
 * How a credential dies. `instant`: refused by every asking verifier from the commit on, nothing lives elsewhere;
 * `backend`: lives at a target and is destroyed there; `expiry-only`: nobody can end it early.
 */
export type RevocationClass = 'instant' | 'backend' | 'expiry-only'

/** A registered resource server. */
export interface Audience {
  readonly name: string
  /** The `aud` of its tokens and the `resource` that callers ask for (RFC 8707): an absolute URI without fragment. */
  readonly uri: string
  /** False: this server cannot check DPoP; its tokens are bearer tokens and live 5 minutes at most. */
  readonly senderConstrained: boolean
  readonly alg: 'ES256' | 'RS256'
  /** False: it verifies tokens alone and asks nobody, so that what it accepts ends by expiry only. */
  readonly introspects: boolean
}

export interface Capability {
  readonly name: string
  readonly summary: string
  readonly engine: string
  /** For the engine alone; its shape is the engine's business. */
  readonly parameters: unknown
  /** Name of an audience; null for things that live at a target (a database user). */
  readonly audience: string | null
  readonly scopes: readonly string[]
  readonly ttlSeconds: number
  readonly maxTtlSeconds: number
  readonly maxEvidenceAgeSeconds: number
  readonly sensitivity: Sensitivity
  readonly intent: IntentClass
  /** Live credentials of this capability, at most; back-pressure before the target feels it. */
  readonly maxLive: number
  readonly revocation: RevocationClass
}

/** The life of a bearer token at an audience that cannot check a proof (standards.md 2.2.12). Seconds. */
export const BEARER_MAX_SECONDS = 300

/** The weaker of the engine's and the audience's class: the honest one to show. */
export function weakerClass(engine: RevocationClass, audience: Audience | null): RevocationClass {
  if (engine === 'instant' && audience && !audience.introspects) return 'expiry-only'
  return engine
}
