/** Owns what anyone may read: metadata (RFC 8414, RFC 9728, OpenID discovery's subset), public keys, and whether we are there. */
import type { Express } from 'express'
import { z } from 'zod'
import { CLIENT_METHODS, type ClientMethod } from '../domain/client-methods.js'
import { openidShape, resourceMetadataShape, serverMetadataShape } from './oauth-shapes.js'
import { RESOURCE_METADATA } from './problem.js'
import { type Doors, route } from './route.js'
import { type As, jwksShape } from './shapes.js'
import { rarType } from './task-object.js'
import { grantTypes } from './token-grants.js'

/** Verifiers may keep our keys this long; a new key is published longer than this before it signs. Seconds. */
export const JWKS_MAX_AGE = 300
/** What we sign access tokens and answers with, and what we accept of proofs. */
const SIGNED = ['ES256', 'RS256']

export function metadataRoutes(app: Express, doors: Doors): void {
  const { serverUrl } = doors
  const cached = { 'Cache-Control': `public, max-age=${JWKS_MAX_AGE}` }
  const kept = <B extends z.ZodType>(body: B) => ({ 200: { body, headers: { 'Cache-Control': z.string() } } })

  const server = serverMetadata(doors)
  // RFC 8414 section 3: between host and path of the issuer; one without a path here, by configuration's rule on the server URL.
  route(app, doors, {
    method: 'get',
    path: '/.well-known/oauth-authorization-server',
    who: 'public',
    summary: 'Metadata of the authorization server (RFC 8414)',
    successes: kept(serverMetadataShape),
    answer: async () => ({ status: 200, headers: cached, body: server }),
  })
  // What Kubernetes and GitHub publish, and all that relying parties of signed tokens fetch (Vault, clouds).
  route(app, doors, {
    method: 'get',
    path: '/.well-known/openid-configuration',
    who: 'public',
    summary: 'Metadata for relying parties of signed tokens',
    successes: kept(openidShape),
    answer: async () => ({
      status: 200,
      headers: cached,
      body: {
        issuer: serverUrl,
        jwks_uri: server.jwks_uri,
        response_types_supported: ['id_token'],
        subject_types_supported: ['public'],
        id_token_signing_alg_values_supported: SIGNED,
      },
    }),
  })
  // RFC 9728 section 3.1: of the server as a whole, and of its API by the path that its users know.
  for (const part of ['', '/v1'])
    route(app, doors, {
      method: 'get',
      path: `${RESOURCE_METADATA}${part}`,
      who: 'public',
      summary: 'Metadata of this API as a protected resource (RFC 9728)',
      successes: kept(resourceMetadataShape),
      answer: async () => ({ status: 200, headers: cached, body: resourceMetadata(doors, `${serverUrl}${part}`) }),
    })
  route(app, doors, {
    method: 'get',
    path: '/.well-known/jwks.json',
    who: 'public',
    summary: 'The keys that access tokens are signed with',
    successes: kept(jwksShape),
    answer: async () => ({ status: 200, headers: cached, body: (await doors.signer.jwks('access')) as As<typeof jwksShape> }),
  })
  healthRoutes(app, doors)
}

/** RFC 8414 section 2: only what is switched on, and no empty list (section 3.2). */
function serverMetadata(doors: Doors): As<typeof serverMetadataShape> {
  const { serverUrl, clientMethods } = doors
  const scopes = [...new Set(doors.capabilities.flatMap(c => c.scopes))].sort()
  const introspects = doors.audiences.some(a => a.secret)
  return {
    issuer: serverUrl,
    token_endpoint: `${serverUrl}/oauth2/token`,
    token_endpoint_auth_methods_supported: ['none', ...clientMethods],
    ...(clientMethods.length > 0 ? { token_endpoint_auth_signing_alg_values_supported: algorithmsOf(clientMethods) } : {}),
    jwks_uri: `${serverUrl}/.well-known/jwks.json`,
    ...(introspects
      ? {
          introspection_endpoint: `${serverUrl}/oauth2/introspect`,
          introspection_endpoint_auth_methods_supported: ['client_secret_basic'],
          introspection_signing_alg_values_supported: SIGNED,
        }
      : {}),
    revocation_endpoint: `${serverUrl}/oauth2/revoke`,
    revocation_endpoint_auth_methods_supported: ['none'],
    // Required, and empty arrays are forbidden: there is no authorization endpoint here (standards.md 2.2.8).
    response_types_supported: ['none'],
    grant_types_supported: grantTypes(clientMethods),
    dpop_signing_alg_values_supported: SIGNED,
    authorization_details_types_supported: [rarType(serverUrl)],
    ...(scopes.length > 0 ? { scopes_supported: scopes } : {}),
    protected_resources: [serverUrl, `${serverUrl}/v1`, ...doors.audiences.map(a => a.uri)],
  }
}

/** RFC 9728 section 2, of our own API: its access token is the task token. */
function resourceMetadata({ serverUrl }: Doors, resource: string): As<typeof resourceMetadataShape> {
  return {
    resource,
    authorization_servers: [serverUrl],
    // What the answers of this API are signed with: receipts.
    jwks_uri: `${serverUrl}/v1/receipt-keys`,
    bearer_methods_supported: ['header'],
    dpop_signing_alg_values_supported: SIGNED,
    dpop_bound_access_tokens_required: true,
    authorization_details_types_supported: [rarType(serverUrl)],
  }
}

const algorithmsOf = (methods: readonly ClientMethod[]): readonly string[] => [...new Set(methods.flatMap(m => [...CLIENT_METHODS[m].algorithms]))].sort()

/** `/livez` asks nobody. `/readyz` is 503 only without the store: the way to revoke must stay in rotation (ux.md 10). */
function healthRoutes(app: Express, doors: Doors): void {
  route(app, doors, {
    method: 'get',
    path: '/livez',
    who: 'public',
    summary: 'Is this process there? It asks nobody',
    successes: { 200: { body: z.object({ status: z.literal('ok') }) } },
    answer: async () => ({ status: 200, body: { status: 'ok' } }),
  })
  route(app, doors, {
    method: 'get',
    path: '/readyz',
    who: 'public',
    summary: 'May requests be sent here?',
    successes: {
      200: { body: z.object({ status: z.enum(['ok', 'degraded']) }) },
      503: { what: 'Without its store it can do nothing.', body: z.object({ status: z.literal('down') }) },
    },
    answer: async () => {
      const { status } = await doors.readiness()
      return status === 'down' ? { status: 503, body: { status } } : { status: 200, body: { status } }
    },
  })
}
