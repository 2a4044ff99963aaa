/** Owns introspection (RFC 7662, as a JWT RFC 9701) and how a resource server authenticates to it. */
import { timingSafeEqual } from 'node:crypto'
import type { Express, Request } from 'express'
import type { Live } from '../broker/introspect.js'
import type { Audience } from '../domain/capability.js'
import { CurfewError } from '../domain/errors.js'
import { Secret } from '../domain/secret.js'
import { type activeShape, introspectionShape } from './oauth-shapes.js'
import { authorization } from './request.js'
import { type Doors, route } from './route.js'
import { tokenQueryForm } from './schemas.js'
import type { As } from './shapes.js'

const SIGNED_ANSWER = 'application/token-introspection+jwt'

export function introspectionRoutes(app: Express, doors: Doors): void {
  route(app, doors, {
    method: 'post',
    path: '/oauth2/introspect',
    who: 'public',
    oauth: true,
    shows: [['resourceServer']],
    summary: 'Is this token live? (RFC 7662)',
    description: 'Anything that is not, or is not for who asks, is exactly {"active":false}. As a signed JWT by RFC 9701 for who accepts that more.',
    form: tokenQueryForm,
    successes: { 200: { body: introspectionShape, text: [SIGNED_ANSWER] } },
    answer: async ({ body, req }) => {
      const audience = resourceServer(doors, req)
      const live = await doors.broker.introspect(audience, body.token)
      const told = live ? activeView(live) : { active: false as const }
      // Plain JSON unless the caller likes the signed answer better (RFC 9701 section 4, RFC 9110 section 12.5.1).
      if (req.accepts(['application/json', SIGNED_ANSWER]) !== SIGNED_ANSWER) return { status: 200, body: told }
      return { status: 200, headers: { 'Content-Type': SIGNED_ANSWER }, body: await doors.broker.signIntrospection(audience, told) }
    },
  })
}

/** What the engine signed, as it signed it. */
function activeView({ credential, claims }: Live): As<typeof activeShape> {
  const signed: Readonly<Record<string, unknown>> = claims
  return { active: true, token_type: credential.jkt === null ? 'Bearer' : 'DPoP', ...signed } as As<typeof activeShape>
}

/** RFC 7662 section 2.1: the resource server must authenticate; here by HTTP Basic with its audience's name. */
export function resourceServer(doors: Doors, req: Request): Audience {
  const refused = () =>
    new CurfewError('attestation_refused', 'a registered resource server must authenticate', { reason: 'client_unauthenticated', field: 'Authorization' })
  const given = authorization(req)
  if (given?.scheme !== 'basic') throw refused()
  const text = Buffer.from(given.value, 'base64').toString('utf8')
  const at = text.indexOf(':')
  const plain = [text.slice(0, at), text.slice(at + 1)] as const
  // As RFC 7617 joins them, and form-encoded before (RFC 6749 section 2.3.1): stock clients encode even the `-` of a name.
  const audiences = [plain, plain.map(formDecoded) as [string, string]].map(([name, secret]) => authenticated(doors, name, secret))
  const audience = audiences.find(a => a !== null)
  if (!audience) throw refused()
  return audience
}

function authenticated(doors: Doors, name: string, secret: string): Audience | null {
  const audience = doors.audiences.find(a => a.name === name)
  // Compared as digests in constant time, also when there is no such server: absence must not be faster than a wrong secret (H24).
  const shown = Buffer.from(Secret.token(secret || 'none').digest())
  const wanted = Buffer.from(audience?.secret?.digest() ?? Secret.token('absent').digest())
  return timingSafeEqual(shown, wanted) && audience?.secret ? audience : null
}

function formDecoded(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    return text
  }
}
