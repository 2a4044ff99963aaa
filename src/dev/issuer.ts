/** Owns the built-in OpenID issuer: on loopback, shaping tokens like those of the CI providers, so that the first run needs no account anywhere. */
import { createServer } from 'node:http'
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT } from 'jose'
import { CI_PROVIDERS, type CiProvider, ciClaims, ISSUER_PATHS } from './ci-tokens.js'
import { freePort } from './ports.js'

export interface DevIssuer {
  /** The issuer of tokens like GitHub's. */
  readonly url: string
  /** As a configuration names it to believe jobs of acme. */
  readonly entry: { readonly name: 'github'; readonly [setting: string]: unknown }
  /** The `iss` of tokens like this provider's: an issuer of its own, with the same key. */
  issuerOf(provider: CiProvider): string
  /** A job on the main branch of acme/orders, with what the caller changes. */
  token(provider: CiProvider, audience: string, claims?: JWTPayload): Promise<string>
  /** The same of GitHub: a push. */
  githubToken(audience: string, claims?: JWTPayload): Promise<string>
  close(): Promise<void>
}

const KID = 'dev-1'

export async function startIssuer(): Promise<DevIssuer> {
  const { publicKey, privateKey } = await generateKeyPair('RS256', { extractable: true })
  const jwks = { keys: [{ ...(await exportJWK(publicKey)), kid: KID, alg: 'RS256', use: 'sig' }] }
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`

  const issuerOf = (provider: CiProvider) => url + ISSUER_PATHS[provider]
  const token: DevIssuer['token'] = (provider, audience, claims = {}) =>
    new SignJWT({ ...ciClaims(provider, issuerOf(provider), audience, Math.floor(Date.now() / 1000)), ...claims })
      .setProtectedHeader({ alg: 'RS256', kid: KID, typ: 'JWT' })
      .sign(privateKey)

  const server = createServer(async (req, res) => {
    const asked = new URL(req.url ?? '/', url)
    const json = (body: unknown) => res.setHeader('Content-Type', 'application/json').end(JSON.stringify(body))
    for (const provider of CI_PROVIDERS) {
      const path = ISSUER_PATHS[provider]
      if (asked.pathname === `${path}/.well-known/openid-configuration`) return json({ issuer: url + path, jwks_uri: `${url}/jwks` })
      // The shape of ACTIONS_ID_TOKEN_REQUEST_URL: GET with an audience, answers {value}.
      if (asked.pathname === `${path}/token`) return json({ value: await token(provider, asked.searchParams.get('audience') ?? '') })
    }
    if (asked.pathname === '/jwks') return json(jwks)
    res.statusCode = 404
    res.end()
  })
  await new Promise<void>(resolve => server.listen(port, '127.0.0.1', resolve))
  return {
    url,
    entry: { name: 'github', kind: 'oidc', profile: 'github', issuer: url, internal: true, pin: { repository_owner_id: ['123456'] } },
    issuerOf,
    token,
    githubToken: (audience, claims) => token('github', audience, claims),
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}
