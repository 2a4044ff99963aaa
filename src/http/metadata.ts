/** Owns what anyone may read: metadata (RFC 8414, OpenID discovery's subset), public keys, and whether we are there. */
import type { Express } from 'express'
import { type Doors, route } from './route.js'
import { rarType } from './task-object.js'

/** Verifiers may keep our keys this long; a new key is published longer than this before it signs. Seconds. */
export const JWKS_MAX_AGE = 300

export function metadataRoutes(app: Express, doors: Doors): void {
  const { serverUrl } = doors
  const cached = { 'Cache-Control': `public, max-age=${JWKS_MAX_AGE}` }
  const metadata = {
    issuer: serverUrl,
    token_endpoint: `${serverUrl}/oauth2/token`,
    jwks_uri: `${serverUrl}/.well-known/jwks.json`,
    introspection_endpoint: `${serverUrl}/oauth2/introspect`,
    introspection_endpoint_auth_methods_supported: ['client_secret_basic'],
    revocation_endpoint: `${serverUrl}/oauth2/revoke`,
    revocation_endpoint_auth_methods_supported: ['none'],
    // Required, and empty arrays are forbidden: there is no authorization endpoint here (standards.md 2.2.8).
    response_types_supported: ['none'],
    grant_types_supported: ['urn:ietf:params:oauth:grant-type:token-exchange'],
    token_endpoint_auth_methods_supported: ['none'],
    dpop_signing_alg_values_supported: ['ES256', 'RS256'],
    authorization_details_types_supported: [rarType(serverUrl)],
    protected_resources: doors.audiences.map(a => a.uri),
  }

  // RFC 8414 section 3: between host and path of the issuer; one without a path here, by configuration's rule on the server URL.
  route(app, doors, {
    method: 'get',
    path: '/.well-known/oauth-authorization-server',
    who: 'public',
    answer: async () => ({ status: 200, headers: cached, body: metadata }),
  })
  route(app, doors, {
    method: 'get',
    path: '/.well-known/openid-configuration',
    who: 'public',
    answer: async () => ({
      status: 200,
      headers: cached,
      body: {
        issuer: serverUrl,
        jwks_uri: metadata.jwks_uri,
        response_types_supported: ['id_token'],
        subject_types_supported: ['public'],
        id_token_signing_alg_values_supported: ['ES256', 'RS256'],
      },
    }),
  })
  route(app, doors, {
    method: 'get',
    path: '/.well-known/jwks.json',
    who: 'public',
    answer: async () => ({ status: 200, headers: cached, body: await doors.signer.jwks('access') }),
  })
  healthRoutes(app, doors)
}

/** `/livez` asks nobody. `/readyz` is 503 only without the store: the way to revoke must stay in rotation (ux.md 10). */
function healthRoutes(app: Express, doors: Doors): void {
  route(app, doors, { method: 'get', path: '/livez', who: 'public', answer: async () => ({ status: 200, body: { status: 'ok' } }) })
  route(app, doors, {
    method: 'get',
    path: '/readyz',
    who: 'public',
    answer: async () => {
      const { status } = await doors.readiness()
      return { status: status === 'down' ? 503 : 200, body: { status } }
    },
  })
}
