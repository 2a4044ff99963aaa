/** Owns the bare program: it verifies the evidence, decides, signs and commits, on node:http, and does nothing else. What all our care costs is measured against it. */
import { sign } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createRemoteJWKSet, jwtVerify } from 'jose'
import pg from 'pg'
import type { PolicyRequest } from '../src/domain/decision.js'
import { newKeyPair } from '../src/domain/key-pair.js'
import { cedarPolicy } from '../src/policy/cedar.js'

const options = JSON.parse(readFileSync(process.argv[2] as string, 'utf8')) as {
  port: number
  url: string
  issuer: string
  audience: string
  policies: string
  capability: PolicyRequest['capability']
  /** Every capability that the policies name. */
  names: string[]
}
const jwks = createRemoteJWKSet(new URL(`${options.issuer}/jwks`))
const pool = new pg.Pool({ connectionString: options.url, max: 16 })
await pool.query(
  'create table if not exists bare_issued (id text primary key, evidence text unique, claims jsonb not null); create table if not exists bare_audit (id bigint generated always as identity, what jsonb not null)',
)
const policy = await cedarPolicy({
  dir: options.policies,
  capabilities: options.names.map(name => ({ ...options.capability, name })),
  issuers: ['github'],
  log: { error: () => {}, info: () => {} },
})
const { privateKey } = await newKeyPair('ec', { namedCurve: 'P-256' })
const b64 = (text: string) => Buffer.from(text).toString('base64url')

createServer(async (req, res) => {
  const chunks: Buffer[] = []
  for await (const chunk of req) chunks.push(chunk as Buffer)
  if (req.url !== '/issue') return void res.end('ok')
  const { payload } = await jwtVerify(Buffer.concat(chunks).toString(), jwks, { issuer: options.issuer, audience: options.audience, algorithms: ['RS256'] })
  const attributes = Object.fromEntries(['repository_id', 'repository_owner_id', 'ref', 'event_name'].map(name => [name, String(payload[name])]))
  const answer = policy.decide({
    attestation: {
      issuer: 'github',
      profile: 'github',
      identity: `github:repository_id=${payload.repository_id}`,
      owner: null,
      attributes,
      strength: 3,
    } as unknown as PolicyRequest['attestation'],
    capability: options.capability,
    audience: null,
    task: { purpose: 'bench', labels: {}, owner: null, depth: 0 },
    ttlSeconds: 300,
    evidenceAgeSeconds: 1,
    proof: true,
  })
  if (!answer.allowed) return void res.writeHead(403).end()
  const now = Math.floor(Date.now() / 1000)
  const claims = { iss: options.audience, aud: 'https://orders.example/', sub: payload.sub, jti: String(payload.jti), iat: now, exp: now + 300 }
  const input = `${b64('{"alg":"ES256","typ":"at+jwt"}')}.${b64(JSON.stringify(claims))}`
  const token = `${input}.${sign('sha256', Buffer.from(input), { key: privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`
  const client = await pool.connect()
  try {
    await client.query('begin')
    await client.query('insert into bare_issued (id, evidence, claims) values ($1, $1, $2)', [claims.jti, JSON.stringify(claims)])
    await client.query('insert into bare_audit (what) values ($1)', [JSON.stringify({ issued: claims.jti, policies: answer.policies })])
    await client.query('commit')
  } finally {
    client.release()
  }
  res.end(JSON.stringify({ access_token: token }))
}).listen(options.port, '127.0.0.1')
