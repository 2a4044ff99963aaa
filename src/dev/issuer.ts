/** Owns the built-in OpenID issuer: on loopback, shaping tokens like GitHub Actions, so that the first run needs no account anywhere. */
import { randomBytes } from 'node:crypto'
import { createServer } from 'node:http'
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT } from 'jose'
import { freePort } from './ports.js'

export interface DevIssuer {
  readonly url: string
  /** A push to main of acme/orders, with what the caller changes. */
  githubToken(audience: string, claims?: JWTPayload): Promise<string>
  close(): Promise<void>
}

const KID = 'dev-1'

export async function startIssuer(): Promise<DevIssuer> {
  const { publicKey, privateKey } = await generateKeyPair('RS256', { extractable: true })
  const jwks = { keys: [{ ...(await exportJWK(publicKey)), kid: KID, alg: 'RS256', use: 'sig' }] }
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`

  const githubToken: DevIssuer['githubToken'] = (audience, claims = {}) => {
    const now = Math.floor(Date.now() / 1000)
    return new SignJWT({
      iss: url,
      aud: audience,
      sub: 'repo:acme@123456/orders@456789:ref:refs/heads/main',
      jti: randomBytes(16).toString('hex'),
      iat: now,
      nbf: now,
      exp: now + 300,
      repository: 'acme/orders',
      repository_id: '456789',
      repository_owner: 'acme',
      repository_owner_id: '123456',
      repository_visibility: 'private',
      ref: 'refs/heads/main',
      ref_type: 'branch',
      event_name: 'push',
      workflow: 'ci',
      workflow_ref: 'acme/orders/.github/workflows/ci.yml@refs/heads/main',
      job_workflow_ref: 'acme/orders/.github/workflows/ci.yml@refs/heads/main',
      runner_environment: 'github-hosted',
      actor: 'dana',
      actor_id: '7',
      run_id: String(randomBytes(4).readUInt32BE()),
      run_attempt: '1',
      check_run_id: String(randomBytes(4).readUInt32BE()),
      sha: randomBytes(20).toString('hex'),
      ...claims,
    })
      .setProtectedHeader({ alg: 'RS256', kid: KID, typ: 'JWT' })
      .sign(privateKey)
  }

  const server = createServer(async (req, res) => {
    const asked = new URL(req.url ?? '/', url)
    const json = (body: unknown) => res.setHeader('Content-Type', 'application/json').end(JSON.stringify(body))
    if (asked.pathname === '/.well-known/openid-configuration') return json({ issuer: url, jwks_uri: `${url}/jwks` })
    if (asked.pathname === '/jwks') return json(jwks)
    // The shape of ACTIONS_ID_TOKEN_REQUEST_URL: GET with an audience, answers {value}.
    if (asked.pathname === '/token') return json({ value: await githubToken(asked.searchParams.get('audience') ?? '') })
    res.statusCode = 404
    res.end()
  })
  await new Promise<void>(resolve => server.listen(port, '127.0.0.1', resolve))
  return {
    url,
    githubToken,
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}
