/** Owns that the client of docs/oauth.md is one: its lines are run as they stand, by a process of their own, over TLS, for every grant. */
import { execFile, execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:https'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { freePort } from '../../src/dev/ports.js'
import { newKeyPair } from '../../src/domain/key-pair.js'
import { introspect } from '../caller.js'
import { GITHUB_ISSUER, type House, type KeyedIssuer, keyedIssuer, makeHouse } from '../house.js'
import { blocksOf } from '../pages.js'

const ROOT = new URL('../../', import.meta.url).pathname
const SVID = 'spiffe://mesh.example/ci'
const allow = (issuer: string, when: string) =>
  `@id("${issuer}") permit (principal, action == Action::"issue", resource == Capability::"demo/orders-ro") when { context.issuer == "${issuer}" && ${when} };`

let dir: string
let house: House
let door: Server
let issuer: string
let mesh: KeyedIssuer
let agentKey: string

beforeAll(async () => {
  // Below the repository, so that the lines find the packages that they name.
  mkdirSync(join(ROOT, 'dist'), { recursive: true })
  dir = mkdtempSync(join(ROOT, 'dist/oauth-page-'))
  const at = (name: string) => join(dir, name)
  const days = ['-nodes', '-days', '1', '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1']
  const newKey = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-keyout', at('tls.key'), '-out', at('tls.pem')]
  execFileSync('openssl', [...newKey, ...days], { stdio: 'pipe' })
  mesh = await keyedIssuer('ES256', 'mesh-1')
  writeFileSync(at('mesh.json'), JSON.stringify({ keys: [{ ...mesh.jwk, alg: undefined, use: 'jwt-svid' }] }))
  const agent = await newKeyPair('ec', { namedCurve: 'P-256' })
  agentKey = agent.privateKey.export({ format: 'pem', type: 'pkcs8' }) as string

  const port = await freePort()
  issuer = `https://127.0.0.1:${port}`
  house = await makeHouse({
    policies: [
      allow('github', 'context has github && context.github.repository_id == "456789"'),
      allow('agents', 'context has registered && context.registered.agent == "reporter"'),
      allow('mesh', 'context has spiffe && context.spiffe.path == "/ci"'),
    ].join('\n'),
    more: {
      server: { url: issuer, listen: '127.0.0.1:0', internal: '127.0.0.1:0', dpopNonce: 'required' },
      issuers: [
        GITHUB_ISSUER,
        { name: 'agents', kind: 'registered', agents: [{ name: 'reporter', owner: '@data', key: { jwk: agent.publicKey.export({ format: 'jwk' }) } }] },
        { name: 'mesh', kind: 'spiffe', trustDomain: 'mesh.example', bundle: { file: at('mesh.json') } },
      ],
    },
  })
  door = createServer({ key: readFileSync(at('tls.key')), cert: readFileSync(at('tls.pem')) }, (req, res) => house.http(req, res))
  await new Promise<void>(resolve => door.listen(port, '127.0.0.1', resolve))
})
afterAll(async () => {
  door?.closeAllConnections()
  door?.close()
  await house?.close()
  if (dir) rmSync(dir, { recursive: true, force: true })
})

describe('docs/oauth.md', () => {
  const [first = '', ...grants] = blocksOf(readFileSync(join(ROOT, 'docs/oauth.md'), 'utf8'), 'js')
  const JOB = 'github:repository_id=456789'
  const idToken = async () => ({ ID_TOKEN: await house.evidence({ aud: issuer }) })
  const cases: readonly [string, string, () => Promise<Record<string, string>>][] = [
    ['token exchange', JOB, idToken],
    ['jwt-bearer', JOB, idToken],
    ['private_key_jwt', 'agents:agent=reporter', async () => ({ AGENT_KEY: agentKey })],
    ['jwt-spiffe', SVID, async () => ({ SVID: await mesh.mint({ sub: SVID, aud: issuer, iat: house.now(), exp: house.now() + 300 }) })],
  ]
  it('shows these', () => expect(grants).toHaveLength(cases.length))

  it.each(cases.map((c, i) => [...c, i] as const))('%s: the lines get a token that is live, and of who asked', async (_grant, client, shown, i) => {
    const script = join(dir, `${i}.mjs`)
    writeFileSync(script, `${first}\n${grants[i]}\nconsole.log(access_token)`)
    const env = { PATH: process.env.PATH ?? '', NODE_EXTRA_CA_CERTS: join(dir, 'tls.pem'), CURFEW_URL: issuer, CLIENT_ID: client, ...(await shown()) }
    const { stdout } = await promisify(execFile)(process.execPath, [script], { env })
    expect((await introspect(house, stdout.trim())).body).toMatchObject({ active: true, client_id: client, sub: client, scope: 'orders:read' })
  })
})
