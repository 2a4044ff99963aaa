/** Owns the door that proxies ask at (nginx, Traefik, Caddy, Envoy): 200 with who it is, 401 or 403 with a challenge. */
import type { Express, Request, Response } from 'express'
import { z } from 'zod'
import type { Live } from '../broker/introspect.js'
import { CurfewError } from '../domain/errors.js'
import { askedByEnvoy, ENVOY_PATH, FORWARD_PATH, identityHeaders, originalRequest } from '../domain/original-request.js'
import { type Declaration, declare, METHODS } from './declaration.js'
import { authorization, headerValues, singleHeader } from './request.js'
import { type Doors, parse, refuse } from './route.js'
import { forwardQuery } from './schemas.js'
import { id } from './shapes.js'

export function forwardAuthRoutes(app: Express, doors: Doors): void {
  const answer = (dialect: 'headers' | 'envoy') => async (req: Request, res: Response) => {
    try {
      const { live, seconds } = await admitted(doors, req, dialect)
      const { credential, claims } = live
      const who = { credential: credential.id, subject: String(claims.sub), task: credential.task, scope: typeof claims.scope === 'string' ? claims.scope : '' }
      for (const [name, value] of Object.entries(identityHeaders(who))) res.setHeader(name, value)
      // A proxy that keeps verdicts keeps them for a moment only: so long a revocation may be late there.
      res.setHeader('Cache-Control', `private, max-age=${Math.min(seconds, 2)}`)
      res.status(200).end()
    } catch (error) {
      await refuse(doors, { path: FORWARD_PATH }, req, res, res.locals.requestId as string, error, challenge(req, error))
    }
  }
  for (const method of ['get', 'head'] as const)
    declare(app, { ...asked, method, path: FORWARD_PATH, summary: 'May this request pass? (nginx, Traefik, Caddy)', headers: ORIGINAL, query: forwardQuery })
  for (const path of [ENVOY_PATH, `${ENVOY_PATH}/*rest`]) {
    // What is behind the prefix is the path that is asked about, however many parts it has.
    for (const method of METHODS) declare(app, { ...asked, method, path, summary: 'May this request pass? (Envoy ext_authz)', headers: ENVOY })
  }
  app.get(FORWARD_PATH, answer('headers'))
  app.head(FORWARD_PATH, answer('headers'))
  app.all([ENVOY_PATH, `${ENVOY_PATH}/*rest`], answer('envoy'))
}

const asked = {
  who: 'public',
  shows: [['tokenUnderTest'], ['tokenUnderTest', 'proof']],
  successes: {
    200: {
      what: 'It may; the proxy hands the headers on.',
      headers: {
        'X-Curfew-Credential': id('credential'),
        'X-Curfew-Subject': z.string(),
        'X-Curfew-Task': id('task'),
        'X-Curfew-Scope': z.string(),
        'Cache-Control': z.string(),
      },
    },
  },
  refuses: ['forbidden'],
} as const satisfies Partial<Declaration>

/** One of each pair, and the two of a pair must not differ. */
const ORIGINAL = Object.fromEntries(
  ['X-Original-Method', 'X-Original-URI', 'X-Forwarded-Method', 'X-Forwarded-Uri'].map(name => [name, z.string().max(4_096).optional()]),
)
const ENVOY = { 'X-Curfew-Audience': forwardQuery.shape.audience, 'X-Curfew-Scope': forwardQuery.shape.scope }

const CHALLENGES: Partial<Record<string, string>> = {
  attestation_refused: 'invalid_token',
  proof_refused: 'invalid_dpop_proof',
  forbidden: 'insufficient_scope',
}

/** RFC 6750 section 3 and RFC 9449 section 7.1, for the client behind the proxy. */
function challenge(req: Request, error: unknown): Record<string, string> {
  const name = error instanceof CurfewError ? CHALLENGES[error.code] : undefined
  if (!(error instanceof CurfewError) || name === undefined) return {}
  const scheme = /^dpop /i.test(req.headers.authorization ?? '') ? 'DPoP' : 'Bearer'
  return { 'WWW-Authenticate': `${scheme} error="${name}", error_description="${error.facts.reason ?? 'refused'}"` }
}

async function admitted(doors: Doors, req: Request, dialect: 'headers' | 'envoy'): Promise<{ live: Live; seconds: number }> {
  // Envoy's own path carries the client's query: what is asked for stands in headers that the proxy sets.
  const scope = singleHeader(req, 'x-curfew-scope')
  const asked = dialect === 'envoy' ? { audience: singleHeader(req, 'x-curfew-audience'), ...(scope === undefined ? {} : { scope }) } : { ...req.query }
  const query = parse(forwardQuery, asked, 'query') as { audience: string; scope?: string | undefined }
  const audience = doors.audiences.find(a => a.name === query.audience)
  if (!audience) throw new CurfewError('malformed', 'no such audience', { reason: 'audience_unknown', field: 'audience' })
  const own = dialect === 'envoy' ? askedByEnvoy(req.method, req.path) : null
  const request = originalRequest(name => headerValues(req, name), own)
  const given = authorization(req)
  if (!given || (given.scheme !== 'dpop' && given.scheme !== 'bearer'))
    throw new CurfewError('attestation_refused', 'a token is required', { reason: 'token_missing', field: 'Authorization' })
  const live = await doors.broker.admit({
    audience,
    scope: query.scope ?? null,
    request,
    scheme: given.scheme,
    token: given.value,
    proofs: headerValues(req, 'dpop'),
  })
  return { live, seconds: Math.max(0, Math.floor((live.credential.expiresAt.getTime() - doors.store.clock.now().getTime()) / 1000)) }
}
