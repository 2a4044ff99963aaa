/** Owns how a client may authenticate at the token endpoint: by an assertion, and which attestor alone may believe it (RFC 7521 section 4.2). */
import type { AttestorKind } from './workload.js'

export interface ClientMethodRules {
  /** The `client_assertion_type` that names it. */
  readonly assertionType: string
  /** An arbitrary token of an OpenID issuer is neither of the two. */
  readonly attestor: AttestorKind
  /** What the metadata promises and the attestor accepts. */
  readonly algorithms: readonly string[]
}

export const CLIENT_METHODS = {
  /** RFC 7523 section 2.2, by the registered key of an agent. */
  private_key_jwt: {
    assertionType: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    attestor: 'registered',
    algorithms: ['ES256', 'RS256', 'EdDSA'],
  },
  /** OAuth SPIFFE client authentication: a JWT-SVID (section 3 of that: the RSA and EC families, EdDSA is not among them). */
  spiffe_jwt: {
    assertionType: 'urn:ietf:params:oauth:client-assertion-type:jwt-spiffe',
    attestor: 'spiffe',
    algorithms: ['ES256', 'ES384', 'RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512'],
  },
} as const satisfies Record<string, ClientMethodRules>

export type ClientMethod = keyof typeof CLIENT_METHODS
