/** Owns the shapes of what the OAuth endpoints and the metadata answer, by their RFCs. */
import { z } from 'zod'
import { id, thing, tokenTypeShape } from './shapes.js'

const names = z.array(z.string())
const seconds = z.int().min(0)

/** RFC 9396 section 7: as granted. */
const grantedShape = thing('GrantedTask', {
  type: z.url(),
  identifier: id('task'),
  purpose: z.string().optional(),
  capabilities: names,
  actions: names.optional(),
  locations: names.optional(),
  ttl: seconds.optional(),
  life_seconds: seconds.optional(),
})

/** RFC 8693 section 2.2.1, RFC 6749 section 5.1. */
export const tokenShape = thing('TokenResponse', {
  access_token: z.string(),
  issued_token_type: z.enum(['urn:ietf:params:oauth:token-type:access_token', 'urn:ietf:params:oauth:token-type:jwt']).optional(),
  token_type: tokenTypeShape,
  expires_in: seconds,
  scope: z.string().optional(),
  authorization_details: z.array(grantedShape),
  credential: id('credential').optional(),
  task: z.object({ id: id('task'), token: z.string().optional(), deadline_at: z.iso.datetime({ precision: 3 }) }),
})

/** RFC 8693 section 4.1: the outermost is the current actor. */
const actShape: z.ZodType = z.lazy(() => z.object({ sub: z.string(), iss: id('issuer'), act: actShape.optional() })).meta({ id: 'Act' })

/** RFC 7662 section 2.2: of anything that is not live, or not for who asks, nothing but this is said. */
const inactiveShape = z.object({ active: z.literal(false) })
export const activeShape = thing('ActiveToken', {
  active: z.literal(true),
  token_type: tokenTypeShape,
  iss: z.string(),
  aud: z.string(),
  client_id: z.string(),
  sub: z.string(),
  jti: id('credential'),
  iat: seconds,
  nbf: seconds,
  exp: seconds,
  task: z.object({ id: id('task'), ancestors: z.array(id('task')) }),
  trust_issuer: id('issuer'),
  sub_issuer: id('issuer').optional(),
  act: actShape.optional(),
  scope: z.string().optional(),
  authorization_details: z.array(grantedShape),
  cnf: z.object({ jkt: z.string() }).optional(),
})
export const introspectionShape = z.union([activeShape, inactiveShape])

/** RFC 8414 section 2: what is not there is not switched on. */
export const serverMetadataShape = thing('ServerMetadata', {
  issuer: z.url(),
  token_endpoint: z.url(),
  token_endpoint_auth_methods_supported: names,
  token_endpoint_auth_signing_alg_values_supported: names.optional(),
  jwks_uri: z.url(),
  introspection_endpoint: z.url().optional(),
  introspection_endpoint_auth_methods_supported: names.optional(),
  introspection_signing_alg_values_supported: names.optional(),
  revocation_endpoint: z.url(),
  revocation_endpoint_auth_methods_supported: names,
  response_types_supported: names,
  grant_types_supported: names,
  dpop_signing_alg_values_supported: names,
  authorization_details_types_supported: names,
  scopes_supported: names.optional(),
  protected_resources: names,
})

/** OpenID Connect Discovery: the subset that relying parties of signed tokens fetch. */
export const openidShape = thing('OpenIdConfiguration', {
  issuer: z.url(),
  jwks_uri: z.url(),
  response_types_supported: names,
  subject_types_supported: names,
  id_token_signing_alg_values_supported: names,
})

/** RFC 9728 section 2. */
export const resourceMetadataShape = thing('ResourceMetadata', {
  resource: z.url(),
  authorization_servers: z.array(z.url()),
  jwks_uri: z.url(),
  bearer_methods_supported: names,
  dpop_signing_alg_values_supported: names,
  dpop_bound_access_tokens_required: z.boolean(),
  authorization_details_types_supported: names,
})
