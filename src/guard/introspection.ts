/** Owns asking the issuer whether a token is live (RFC 7662). The answer is never kept: that it was live a moment ago is no verdict. */
import { parseStrictBytes } from '../domain/json.js'
import { Refusal, refuse } from './errors.js'
import { ask, type Outward } from './outward.js'

export interface IntrospectionOptions {
  readonly out: Outward
  readonly url: () => Promise<string>
  readonly client: string
  readonly secret: string
}

const WITHIN_MS = 3_000
const MAX_BYTES = 65_536

/** Returns when it is live. @throws Refusal(revoked), or introspection_failed when nobody said. */
export type Introspect = (token: string, credential: string) => Promise<void>

export function introspection({ out, url, client, secret }: IntrospectionOptions): Introspect {
  const authorization = `Basic ${Buffer.from(`${client}:${secret}`).toString('base64')}`
  return async (token, credential) => {
    let answer: { active?: unknown; jti?: unknown }
    try {
      const { status, bytes } = await ask(out, await url(), {
        method: 'POST',
        headers: { 'content-type': 'application/x-www-form-urlencoded', authorization },
        body: new URLSearchParams({ token, token_type_hint: 'access_token' }).toString(),
        withinMs: WITHIN_MS,
        maxBytes: MAX_BYTES,
      })
      if (status !== 200) throw new Error(`introspection answered ${status}`)
      answer = (parseStrictBytes(bytes) ?? {}) as typeof answer
      if (typeof answer.active !== 'boolean') throw new Error('introspection answered without active')
      // A word about another credential is none about this one.
      if (answer.active && answer.jti !== credential) throw new Error('introspection answered for another credential')
    } catch (cause) {
      if (cause instanceof Refusal) throw cause
      throw new Refusal('introspection_failed', { cause })
    }
    if (answer.active !== true) refuse('revoked')
  }
}
