/** Owns the trust issuer that attestor tests begin with: a generic one that refuses all that it can, and what a test changes. */
import type { OidcIssuerConfig } from '../src/config-schema.js'

export const oidcIssuer = (issuer: string, more: Partial<OidcIssuerConfig> = {}): OidcIssuerConfig => ({
  name: 'ci',
  kind: 'oidc',
  profile: 'generic',
  issuer,
  keys: { discovery: true },
  algs: ['ES256'],
  typ: ['JWT'],
  ignoreHeaders: [],
  allowOtherAudiences: false,
  pin: {},
  allowEvents: [],
  identityClaims: ['sub'],
  attributeClaims: [],
  maxLifeSeconds: 3_600,
  maxTtlSeconds: 3_600,
  strength: 2,
  internal: false,
  owner: null,
  enabled: true,
  ...more,
})
