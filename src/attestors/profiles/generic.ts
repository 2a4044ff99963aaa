/** Owns reading a token of any OpenID issuer: which claims identify and which policy may read is the configuration's to say. */
import { type Profile, required, text } from './profile.js'

export const generic: Profile = {
  name: 'generic',
  // Some issuers leave it out (Vault): their configuration says so with `typ: ['']`.
  typAbsent: false,
  ignoredHeaders: [],
  replay: payload => (payload.jti === undefined ? 'reusable' : 'single_use'),
  normalise(payload, issuer) {
    const identity = issuer.identityClaims.map(name => `${name}=${encodeURIComponent(required(payload, name)).replaceAll('%2F', '/').replaceAll('%3A', ':')}`)
    const attributes: Record<string, string> = {}
    for (const name of new Set([...issuer.identityClaims, ...issuer.attributeClaims])) {
      const value = text(payload, name)
      if (value !== null) attributes[name] = value
    }
    return { identity: `${issuer.name}:${identity.join('&')}`, attributes, run: null }
  },
}
