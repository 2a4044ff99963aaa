import { type KeyObject, sign as signBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { oidcAttestor } from '../../../src/attestors/oidc.js'
import { clientId, registeredAttestor } from '../../../src/attestors/registered.js'
import { parseSpiffeId, spiffeAttestor } from '../../../src/attestors/spiffe.js'
import type { OidcIssuerConfig, RegisteredIssuerConfig, SpiffeIssuerConfig } from '../../../src/config-schema.js'
import { CurfewError } from '../../../src/domain/errors.js'
import { newKeyPair } from '../../../src/domain/key-pair.js'
import type { Attestation } from '../../../src/domain/workload.js'
import type { Attestor } from '../../../src/ports.js'
import { oidcIssuer } from '../../trust-issuer.js'
import { vectors } from '../../vectors.js'

const SERVER = 'https://curfew.example'
const GITHUB = 'https://token.actions.githubusercontent.com'
const NOW = 1_790_000_000

const pair = await newKeyPair('ec', { namedCurve: 'P-256' })
const jwkOf = (key: KeyObject, more: object = {}) => ({ ...key.export({ format: 'jwk' }), ...more })
const b64 = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
function mint(header: object, claims: object, key = pair.privateKey): string {
  const input = `${b64({ alg: 'ES256', kid: 'k', ...header })}.${b64(claims)}`
  const how = key.asymmetricKeyType === 'ec' ? { key, dsaEncoding: 'ieee-p1363' as const } : key
  return `${input}.${signBytes(key.asymmetricKeyType === 'ed25519' ? null : 'sha256', Buffer.from(input), how).toString('base64url')}`
}

const files: Record<string, string> = {
  jwks: JSON.stringify({ keys: [jwkOf(pair.publicKey, { kid: 'k' })] }),
  bundle: JSON.stringify({ keys: [jwkOf(pair.publicKey, { kid: 'k', use: 'jwt-svid' })] }),
  agent: JSON.stringify(jwkOf(pair.publicKey)),
  private: JSON.stringify(jwkOf(pair.privateKey)),
  twice: '{"kty":"EC","kty":"RSA"}',
}
const deps = {
  serverUrl: SERVER,
  clock: { now: () => new Date(NOW * 1000) },
  outbound: { getJson: () => Promise.reject(new Error('no network here')) },
  readFile: async (path: string) => files[path] ?? Promise.reject(new Error('ENOENT')),
  log: { warn: () => {}, error: () => {} },
}

const oidc = (profile: OidcIssuerConfig['profile'], issuer: string, more: Partial<OidcIssuerConfig> = {}): OidcIssuerConfig =>
  oidcIssuer(issuer, { name: profile, profile, keys: { file: 'jwks' }, ...more })

async function outcome(attestor: Attestor, token: string): Promise<Attestation | string> {
  if (!attestor.recognizes({ type: 'jwt', token })) return 'not recognized'
  try {
    return await attestor.attest({ type: 'jwt', token }, AbortSignal.timeout(5_000))
  } catch (error) {
    if (!(error instanceof CurfewError)) throw error
    return `${error.facts.reason}${error.facts.field ? ` ${error.facts.field}` : ''}`
  }
}

const times = { iat: NOW - 5, nbf: NOW - 5, exp: NOW + 300 }

describe('tokens of GitHub Actions', () => {
  /** As its documentation prints them ("Understanding the OIDC token"), with our audience and a time of today. */
  const header = { typ: 'JWT', x5t: 'example-thumbprint' }
  const claims = {
    jti: 'example-id',
    sub: 'repo:octo-org/octo-repo:environment:Production EU',
    environment: 'Production EU',
    aud: SERVER,
    ref: 'refs/heads/main',
    sha: 'example-sha',
    repository: 'octo-org/octo-repo',
    repository_owner: 'octo-org',
    actor_id: '12',
    repository_visibility: 'private',
    repository_id: '74',
    repository_owner_id: '65',
    run_id: '1234567890',
    run_number: '10',
    run_attempt: '2',
    runner_environment: 'github-hosted',
    actor: 'octocat',
    workflow: 'example-workflow',
    head_ref: '',
    base_ref: '',
    event_name: 'workflow_dispatch',
    ref_type: 'branch',
    job_workflow_ref: 'octo-org/octo-automation/.github/workflows/oidc.yml@refs/heads/main',
    iss: GITHUB,
    ...times,
  }
  const ask = (more: object = {}, config: Partial<OidcIssuerConfig> = {}, head: object = header) =>
    outcome(oidcAttestor([oidc('github', GITHUB, config)], deps), mint(head, { ...claims, ...more }))

  it('are attested as documented, the thumbprint in their header included, which chooses nothing', async () => {
    expect(await ask()).toMatchObject({
      identity: 'github:repository_id=74',
      replay: 'single_use',
      run: 'github:65:74:1234567890:2:',
      attributes: { repository_owner_id: '65', environment: 'Production EU', event_name: 'workflow_dispatch', workflow: 'example-workflow' },
    })
    expect(await ask({}, {}, { typ: 'JWT' })).toMatchObject({ identity: 'github:repository_id=74' })
  })

  it('T09 all other places to find a key refuse the token, and so does the thumbprint for an issuer that sends none', async () => {
    for (const name of ['jwk', 'jku', 'x5u', 'x5c', 'x5t#S256']) expect(await ask({}, {}, { ...header, [name]: 'x' })).toBe('header_refused')
    expect(await outcome(oidcAttestor([oidc('generic', GITHUB)], deps), mint(header, claims))).toBe('header_refused')
    // Unless its configuration says that it sends one (Azure Pipelines).
    expect(await outcome(oidcAttestor([oidc('generic', GITHUB, { ignoreHeaders: ['x5t'] })], deps), mint(header, claims))).toMatchObject({ profile: 'generic' })
  })

  it('T35 P2 P3 the subject is never read: both its forms, and one that a repository shaped itself, name the same workload', async () => {
    for (const sub of ['repo:octo-org@65/octo-repo@74:ref:refs/heads/main', 'repo:octo-org-65/octo-repo-74:x', 'repository_id:75:repo:victim/victim'])
      expect(await ask({ sub })).toMatchObject({ identity: 'github:repository_id=74' })
  })

  it('T34 the name of a repository decides nothing, its number everything', async () => {
    expect(await ask({ repository_id: '75' })).toMatchObject({ identity: 'github:repository_id=75' })
    expect(await ask({ repository: 'somebody/else' })).toMatchObject({ identity: 'github:repository_id=74' })
    for (const repository_id of ['74 ', '0x4a', '7e1', '-74', '', 'x'.repeat(21)]) expect(await ask({ repository_id })).toMatch(/^claim_/)
    expect(await ask({ repository_id: undefined })).toBe('claim_missing repository_id')
  })

  it('T33 P9 a pin ties the shared issuer to its tenant', async () => {
    const pin = { repository_owner_id: ['65'] }
    expect(await ask({}, { pin })).toMatchObject({ identity: 'github:repository_id=74' })
    expect(await ask({ repository_owner_id: '66' }, { pin })).toBe('tenant_refused repository_owner_id')
    expect(await ask({ repository_owner_id: ['65'] }, { pin })).toBe('tenant_refused repository_owner_id')
    expect(await ask({ repository_owner_id: undefined }, { pin })).toBe('tenant_refused repository_owner_id')
  })

  it.each(['pull_request_target', 'workflow_run', 'issue_comment', 'issues', 'discussion', 'fork', 'watch', 'repository_dispatch', 'Push', '__proto__'])(
    'T36 P4 the event %s asks only where the configuration names it',
    async event_name => {
      expect(await ask({ event_name })).toBe('event_refused event_name')
      expect(await ask({ event_name }, { allowEvents: [event_name] })).toMatchObject({ attributes: { event_name } })
      expect(await ask({ event_name: 'push' })).toMatchObject({ attributes: { event_name: 'push' } })
    },
  )

  it('T60 a display name may be anything; what policy decides on is printable ASCII', async () => {
    const seen = await ask({ workflow: '🚀 Déploiement' })
    expect(seen).toMatchObject({ identity: 'github:repository_id=74' })
    expect((seen as Attestation).attributes).not.toHaveProperty('workflow')
    expect(await ask({ environment: 'prod\u200d' })).toBe('claim_invalid environment')
    expect(await ask({ ref: 'refs/heads/ma\u0456n' })).toBe('claim_invalid ref')
    expect(await ask({ environment: { name: 'prod' } })).toBe('claim_invalid environment')
  })

  it('T16 without a type, or of another class, they are not theirs', async () => {
    expect(await ask({}, {}, { x5t: 'x' })).toBe('type_refused')
    expect(await ask({}, {}, { ...header, typ: 'at+jwt' })).toBe('type_refused')
  })

  it('T29 of a disabled issuer they are of nobody', async () => {
    expect(await ask({}, { enabled: false })).toBe('not recognized')
  })
})

describe("tokens of a cluster's service accounts", () => {
  const issuer = 'https://kubernetes.default.svc.cluster.local'
  /** As an API server projects them: no `typ`, an array of one audience. */
  const claims = {
    aud: [SERVER],
    iss: issuer,
    jti: 'a3c0',
    'kubernetes.io': {
      namespace: 'ci',
      node: { name: 'node-1', uid: 'n-uid' },
      pod: { name: 'job-x', uid: 'p-uid' },
      serviceaccount: { name: 'deployer', uid: 'sa-uid' },
    },
    sub: 'system:serviceaccount:ci:deployer',
    ...times,
  }
  const ask = (more: object = {}, config: Partial<OidcIssuerConfig> = {}, head: object = {}) =>
    outcome(oidcAttestor([oidc('kubernetes', issuer, config)], deps), mint(head, { ...claims, ...more }))

  it('P12 are known by the uid of the account, name and pod beside it, and may be shown again', async () => {
    expect(await ask()).toMatchObject({
      identity: 'kubernetes:sa-uid',
      replay: 'reusable',
      mark: null,
      attributes: { namespace: 'ci', serviceaccount: 'deployer', serviceaccount_uid: 'sa-uid', pod: 'job-x', pod_uid: 'p-uid', node: 'node-1' },
    })
    const io = claims['kubernetes.io']
    expect(await ask({ 'kubernetes.io': { ...io, serviceaccount: { name: 'deployer', uid: 'another' } } })).toMatchObject({ identity: 'kubernetes:another' })
  })
  it('what says one thing twice differently, or leaves the account out, is refused', async () => {
    expect(await ask({ sub: 'system:serviceaccount:kube-system:deployer' })).toBe('claim_mismatch sub')
    expect(await ask({ 'kubernetes.io': { namespace: 'ci' } })).toBe('claim_missing uid')
    expect(await ask({ 'kubernetes.io': 'ci' })).toBe('claim_missing uid')
    expect(await ask({ exp: undefined })).toBe('claim_missing exp')
  })
  it('a pin may look into nested claims, along a path', async () => {
    expect(await ask({}, { pin: { 'kubernetes.io/namespace': ['ci'] } })).toMatchObject({ identity: 'kubernetes:sa-uid' })
    expect(await ask({}, { pin: { 'kubernetes.io/namespace': ['prod'] } })).toBe('tenant_refused kubernetes.io/namespace')
    expect(await ask({}, { pin: { 'kubernetes.io/constructor/name': ['Object'] } })).toBe('tenant_refused kubernetes.io/constructor/name')
  })
})

describe('tokens of any other issuer', () => {
  const issuer = 'https://ci.example'
  const claims = { iss: issuer, aud: SERVER, sub: 'job 7/x', jti: 'j', org: { id: 42 }, ref_protected: true, ...times }
  const ask = (more: object = {}, config: Partial<OidcIssuerConfig> = {}) =>
    outcome(oidcAttestor([oidc('generic', issuer, config)], deps), mint({ typ: 'JWT' }, { ...claims, ...more }))

  it('T61 are known by the claims that the configuration names, in one spelling that no other values share', async () => {
    expect(await ask({}, { identityClaims: ['org/id', 'sub'], attributeClaims: ['ref_protected'] })).toMatchObject({
      identity: 'generic:org/id=42&sub=job%207/x',
      attributes: { 'org/id': '42', sub: 'job 7/x', ref_protected: 'true' },
    })
    const identity = async (a: string, b: string) => ((await ask({ a, b }, { identityClaims: ['a', 'b'] })) as Attestation).identity
    expect(await identity('1&b=2', '3')).not.toBe(await identity('1', '2&b=3'))
    expect(await identity('%2F', 'x')).not.toBe(await identity('/', 'x'))
    expect(await identity('X', 'x')).not.toBe(await identity('x', 'x'))
  })
  it('T40 are used once when they have a name, and again when nothing tells two of them apart, unless configured', async () => {
    expect(await ask()).toMatchObject({ replay: 'single_use', mark: { id: 'jti:j' } })
    expect(await ask({ jti: undefined })).toMatchObject({ replay: 'reusable', mark: null })
    const configured = await ask({ jti: undefined }, { replay: 'single_use' })
    expect(configured).toMatchObject({ replay: 'single_use', mark: { id: `digest:${(configured as Attestation).digest}` } })
    expect(await ask({}, { replay: 'bounded' })).toMatchObject({ replay: 'bounded', mark: { id: 'jti:j' } })
    expect((await ask({}, { replay: 'bounded' })) as Attestation).not.toHaveProperty('mark.holder')
  })
  it('T40 the mark outlives the evidence, tolerance included', async () => {
    expect(((await ask()) as Attestation).mark?.until.getTime()).toBeGreaterThan((NOW + 300 + 5) * 1000)
  })
  it('T46 of two issuers the same name is two marks', async () => {
    const marks = []
    for (const name of ['one', 'two']) marks.push(((await ask({}, { name })) as Attestation).mark)
    expect(marks[0]?.namespace).not.toBe(marks[1]?.namespace)
  })

  const data = vectors()
  it.skipIf(data === null)(
    `T22 T60 naughty strings in its claims are refused by name or taken as they are${data === null ? ' (skipped: the vectors are not here)' : ''}`,
    async () => {
      const strings = JSON.parse(readFileSync(join(data as string, 'naughty-strings', 'blns.json'), 'utf8')) as string[]
      let plain = 0
      for (const text of strings) {
        const seen = await ask({ note: text }, { identityClaims: ['note'] })
        if (typeof seen === 'string') expect(seen).toMatch(/^(claim_invalid note|claim_missing note|not recognized|token_too_large)$/)
        else {
          plain++
          expect(seen.attributes.note).toBe(text)
          expect(seen.identity).toMatch(/^generic:note=[\x21-\x7e]+$/)
        }
      }
      expect(plain).toBeGreaterThan(200)
    },
  )
})

describe('JWT-SVIDs', () => {
  const config = (more: Partial<SpiffeIssuerConfig> = {}): SpiffeIssuerConfig => ({
    name: 'mesh',
    kind: 'spiffe',
    trustDomain: 'example.org',
    bundle: { file: 'bundle' },
    paths: [],
    maxLifeSeconds: 3_600,
    maxTtlSeconds: 3_600,
    internal: false,
    owner: null,
    enabled: true,
    ...more,
  })
  const ask = (claims: object = {}, head: object = { typ: 'JWT' }, more: Partial<SpiffeIssuerConfig> = {}) =>
    outcome(spiffeAttestor([config(more)], deps), mint(head, { sub: 'spiffe://example.org/ci/orders', aud: [SERVER], iat: NOW - 5, exp: NOW + 300, ...claims }))

  it('are known by their SPIFFE ID, whatever issuer they name, and may be shown again', async () => {
    for (const typ of ['JWT', 'JOSE', undefined])
      expect(await ask({ iss: 'https://oidc.example' }, { typ })).toMatchObject({
        identity: 'spiffe://example.org/ci/orders',
        attributes: { trust_domain: 'example.org', path: '/ci/orders' },
        replay: 'reusable',
        mark: null,
        strength: 3,
      })
  })
  it.each([
    'spiffe://example.org/a/../b',
    'spiffe://example.org/a/./b',
    'spiffe://example.org/a/',
    'spiffe://example.org//a',
    'spiffe://example.org/a%2Fb',
    'spiffe://example.org/a?x',
    'spiffe://example.org/a#x',
    'spiffe://example.org:443/a',
    'spiffe://user@example.org/a',
    'spiffe://Example.org/a',
    'SPIFFE://example.org/a',
    'spiffe:///a',
    'spiffe://example.org/a b',
    'spiffe://example.org/é',
    'spiffe://example.org/a\n',
    ` spiffe://example.org/a`,
    `spiffe://example.org/${'a'.repeat(2_048)}`,
  ])('T62 %s is no SPIFFE ID', async sub => {
    expect(parseSpiffeId(sub)).toBeNull()
    expect(await ask({ sub })).toBe('not recognized')
  })
  it('T62 the twin: every allowed character, and the trust domain alone is an id but no workload', async () => {
    expect(parseSpiffeId('spiffe://a-b_c.1/Z.z_9-/...')).toEqual({ trustDomain: 'a-b_c.1', path: '/Z.z_9-/...' })
    expect(parseSpiffeId('spiffe://example.org')).toEqual({ trustDomain: 'example.org', path: '' })
    expect(await ask({ sub: 'spiffe://example.org' })).toBe('claim_invalid sub')
  })
  it('T27 path prefixes hold on the borders of segments', async () => {
    expect(await ask({}, undefined, { paths: ['/ci'] })).toMatchObject({ profile: 'spiffe' })
    expect(await ask({ sub: 'spiffe://example.org/cinema' }, undefined, { paths: ['/ci'] })).toBe('tenant_refused sub')
  })
  it('T04 T10 T25 another algorithm, trust domain, audience, type, or no name of a key', async () => {
    expect(await ask({}, { alg: 'EdDSA', typ: 'JWT' })).toBe('algorithm_refused')
    expect(await ask({ sub: 'spiffe://other.org/ci' })).toBe('not recognized')
    expect(await ask({ aud: [SERVER, 'x'] })).toBe('audience_mismatch aud')
    expect(await ask({ aud: undefined })).toBe('claim_missing aud')
    expect(await ask({ exp: undefined })).toBe('claim_missing exp')
    expect(await ask({}, { typ: 'at+jwt' })).toBe('type_refused')
    expect(await ask({}, { typ: 'JWT', kid: undefined })).toBe('key_unknown kid')
  })
  it('T11 a bundle key without `use: jwt-svid` is none of theirs', async () => {
    expect(await ask({}, undefined, { bundle: { file: 'jwks' } })).toBe('key_unknown kid')
  })
  it('an empty bootstrap bundle never means the authorities of the operating system', async () => {
    const bundle = {
      endpoint: 'https://spire.example',
      profile: 'https_spiffe',
      serverId: 'spiffe://example.org/spire/server',
      bootstrapFile: 'bundle',
    } as const
    expect(await ask({}, undefined, { bundle })).toBe('bundle_empty')
  })
})

describe('assertions of registered agents', () => {
  const config = (
    key: RegisteredIssuerConfig['agents'][number]['key'] = { file: 'agent' },
    more: Partial<RegisteredIssuerConfig> = {},
  ): RegisteredIssuerConfig => ({
    name: 'agents',
    kind: 'registered',
    agents: [{ name: 'triage', owner: 'ada@example.org', key, labels: { team: 'orders' } }],
    maxLifeSeconds: 300,
    maxTtlSeconds: 900,
    owner: null,
    enabled: true,
    ...more,
  })
  const id = clientId('agents', 'triage')
  const ask = async (claims: object = {}, head: object = { typ: 'client-authentication+jwt' }, key = pair.privateKey) =>
    outcome(
      await registeredAttestor([config()], deps),
      mint({ kid: undefined, ...head }, { iss: id, sub: id, aud: SERVER, jti: 'j', iat: NOW, exp: NOW + 60, ...claims }, key),
    )

  it('are the weakest evidence, used once, with the labels of the configuration', async () => {
    for (const typ of ['client-authentication+jwt', 'JWT', undefined])
      expect(await ask({}, { typ })).toMatchObject({
        identity: 'agents:agent=triage',
        owner: 'ada@example.org',
        strength: 1,
        replay: 'single_use',
        attributes: { agent: 'triage', label_team: 'orders' },
      })
  })
  it('P29 T17 T19 everything that is not exactly one of them is refused', async () => {
    expect(await ask({ sub: 'agents:agent=other' })).toBe('issuer_mismatch sub')
    expect(await ask({ iss: 'agents:agent=other' })).toBe('not recognized')
    expect(await ask({ aud: [SERVER, 'https://other.example'] })).toBe('audience_mismatch aud')
    expect(await ask({ aud: `${SERVER}/oauth2/token` })).toBe('audience_mismatch aud')
    expect(await ask({ aud: [SERVER] })).toMatchObject({ profile: 'registered' })
    expect(await ask({ jti: undefined })).toBe('claim_missing jti')
    expect(await ask({ iat: undefined })).toBe('claim_missing iat')
    expect(await ask({ exp: NOW + 301 })).toBe('life_too_long exp')
    expect(await ask({}, { typ: 'at+jwt' })).toBe('type_refused')
    expect(await ask({}, {}, (await newKeyPair('ec', { namedCurve: 'P-256' })).privateKey)).toBe('signature_invalid')
  })
  it('a key that cannot be used is named at start: private, missing, malformed, off its curve', async () => {
    const start = (key: RegisteredIssuerConfig['agents'][number]['key']) => registeredAttestor([config(key)], deps)
    for (const key of [{ file: 'private' }, { file: 'absent' }, { file: 'twice' }, { jwk: {} }, { jwk: jwkOf(pair.publicKey, { x: jwkOf(pair.publicKey).y }) }])
      await expect(start(key as RegisteredIssuerConfig['agents'][number]['key'])).rejects.toMatchObject({
        code: 'malformed',
        facts: { field: 'issuers.agents.agents.triage.key' },
      })
    await expect(start({ file: 'agent' })).resolves.toBeDefined()
  })
})
