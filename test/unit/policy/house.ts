/** Owns what policy tests share: the shipped configuration's names, requests of each kind of caller, and policies in a directory of their own. */
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import type { Audience, Capability } from '../../../src/domain/capability.js'
import type { PolicyRequest } from '../../../src/domain/decision.js'
import { namedId } from '../../../src/domain/ids.js'
import type { Attributes, Strength } from '../../../src/domain/workload.js'
import { cedarPolicy } from '../../../src/policy/cedar.js'
import type { PolicyEngine } from '../../../src/ports.js'

export const SHIPPED = 'config/policies'
export const ISSUERS = ['github', 'gitlab', 'buildkite', 'circleci', 'mesh', 'agents', 'cluster', 'forge']
export const GENERIC_CLAIMS = ['sub', 'project_id', 'https://example.org/tier']

const audience = (name: string, senderConstrained: boolean): Audience => ({
  name,
  uri: `https://${name}.example.org`,
  senderConstrained,
  alg: 'ES256',
  introspects: true,
})
export const AUDIENCES: Readonly<Record<string, Audience>> = {
  orders: audience('orders', true),
  legacy: audience('legacy', false),
  deploy: audience('deploy', true),
}

const capability = (name: string, rest: Partial<Capability>): Capability => ({
  name,
  summary: name,
  engine: 'memory',
  parameters: {},
  audience: null,
  scopes: [],
  ttlSeconds: 300,
  maxTtlSeconds: 3_600,
  maxEvidenceAgeSeconds: 900,
  sensitivity: 'medium',
  intent: 'read',
  maxLive: 1_000,
  revocation: 'instant',
  ...rest,
})
export const CAPABILITIES: readonly Capability[] = [
  capability('db/orders-ro', { engine: 'vault-database', revocation: 'backend' }),
  capability('demo/orders-ro', { engine: 'jwt', audience: 'orders' }),
  capability('demo/orders-bearer', { engine: 'jwt', audience: 'legacy', sensitivity: 'low' }),
  capability('deploy/prod', { engine: 'jwt', audience: 'deploy', sensitivity: 'high', intent: 'destructive' }),
]

interface Caller {
  readonly issuer: string
  readonly kind: 'oidc' | 'spiffe' | 'registered'
  readonly profile: string
  readonly identity: string
  readonly strength: Strength
  readonly owner: string | null
  readonly attributes: Attributes
}

export const CALLERS: Readonly<Record<string, Caller>> = {
  github: {
    issuer: 'github',
    kind: 'oidc',
    profile: 'github',
    identity: 'github:repository_id=456789',
    strength: 2,
    owner: null,
    attributes: {
      repository_id: '456789',
      repository_owner_id: '123456',
      repository: 'acme/orders',
      repository_owner: 'acme',
      repository_visibility: 'private',
      ref: 'refs/heads/main',
      ref_type: 'branch',
      ref_protected: 'true',
      event_name: 'push',
      workflow: 'ci',
      workflow_ref: 'acme/orders/.github/workflows/ci.yml@refs/heads/main',
      job_workflow_ref: 'acme/orders/.github/workflows/ci.yml@refs/heads/main',
      job_workflow_sha: '0000000000000000000000000000000000000001',
      runner_environment: 'github-hosted',
      actor: 'dana',
      actor_id: '77',
      run_id: '9912',
      run_attempt: '1',
      sha: '0000000000000000000000000000000000000001',
    },
  },
  gitlab: {
    issuer: 'gitlab',
    kind: 'oidc',
    profile: 'gitlab',
    identity: 'gitlab:project_id=20',
    strength: 2,
    owner: null,
    attributes: {
      project_id: '20',
      namespace_id: '72',
      project_path: 'acme/orders',
      ref: 'main',
      ref_type: 'branch',
      ref_path: 'refs/heads/main',
      ref_protected: 'true',
      pipeline_source: 'push',
      pipeline_id: '574',
      job_id: '302',
      ci_config_ref_uri: 'gitlab.com/acme/orders//.gitlab-ci.yml@refs/heads/main',
      runner_environment: 'gitlab-hosted',
      user_login: 'dana',
    },
  },
  buildkite: {
    issuer: 'buildkite',
    kind: 'oidc',
    profile: 'buildkite',
    identity: 'buildkite:organization_id=0184990a-477b-4fa8-9968-496074483c77&pipeline_id=0184990a-4782-42b5-afc1-16715b10b1f0',
    strength: 2,
    owner: null,
    attributes: {
      organization_id: '0184990a-477b-4fa8-9968-496074483c77',
      pipeline_id: '0184990a-4782-42b5-afc1-16715b10b1f0',
      organization_slug: 'acme',
      pipeline_slug: 'orders',
      build_number: '175',
      build_branch: 'main',
      job_id: '0184990a-477b-4fa8-9968-496074483cee',
    },
  },
  circleci: {
    issuer: 'circleci',
    kind: 'oidc',
    profile: 'circleci',
    identity: 'circleci:org_id=c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e&project_id=3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c',
    strength: 2,
    owner: null,
    attributes: {
      org_id: 'c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e',
      project_id: '3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c',
      ssh_rerun: 'false',
      job_id: '1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9',
      workflow_id: '2b3c4d5e-6f7a-4b8c-9d0e-1f2a3b4c5d6e',
      vcs_origin: 'github.com/acme/orders',
      vcs_ref: 'refs/heads/main',
      context_ids: ['7b6a5c4d-3e2f-4a1b-8c9d-0e1f2a3b4c5d'],
    },
  },
  spiffe: {
    issuer: 'mesh',
    kind: 'spiffe',
    profile: 'spiffe',
    identity: 'spiffe://example.org/ci/orders',
    strength: 3,
    owner: null,
    attributes: { spiffe_id: 'spiffe://example.org/ci/orders', trust_domain: 'example.org', path: '/ci/orders' },
  },
  agent: {
    issuer: 'agents',
    kind: 'registered',
    profile: 'registered',
    identity: 'agents:agent=triage',
    strength: 1,
    owner: 'dana',
    attributes: { agent: 'triage', label_team: 'orders' },
  },
  pod: {
    issuer: 'cluster',
    kind: 'oidc',
    profile: 'kubernetes',
    identity: 'cluster:6b0c1d9e-2f3a-4b5c-8d7e-9f0a1b2c3d4e',
    strength: 3,
    owner: null,
    attributes: {
      namespace: 'reports',
      serviceaccount: 'runner',
      serviceaccount_uid: '6b0c1d9e-2f3a-4b5c-8d7e-9f0a1b2c3d4e',
      pod: 'runner-1',
      pod_uid: '11111111-2222-3333-4444-555555555555',
    },
  },
  forge: {
    issuer: 'forge',
    kind: 'oidc',
    profile: 'generic',
    identity: 'forge:project_id=42',
    strength: 2,
    owner: null,
    attributes: { sub: 'project_path:acme/orders', project_id: '42' },
  },
}

export interface Asked {
  readonly caller?: string
  readonly capability?: string
  readonly identity?: string
  readonly issuer?: string
  readonly profile?: string
  readonly strength?: number
  readonly owner?: string | null
  /** Over the caller's own; null takes one away. */
  readonly attributes?: Readonly<Record<string, unknown>>
  readonly ttl?: number
  readonly evidenceAge?: number
  readonly proof?: boolean
  readonly purpose?: string
  readonly labels?: Readonly<Record<string, string>>
  readonly depth?: number
}

export function request(asked: Asked = {}): PolicyRequest {
  const caller = CALLERS[asked.caller ?? 'github'] as Caller
  const named = CAPABILITIES.find(c => c.name === (asked.capability ?? 'db/orders-ro')) ?? capability(asked.capability ?? '', {})
  const identity = asked.identity ?? caller.identity
  const issuer = asked.issuer ?? caller.issuer
  const attributes = Object.fromEntries(Object.entries({ ...caller.attributes, ...asked.attributes }).filter(([, value]) => value !== null)) as Attributes
  return {
    attestation: {
      issuer,
      issuerId: namedId('issuer', issuer),
      kind: caller.kind,
      profile: asked.profile ?? caller.profile,
      identity,
      identityId: namedId('identity', identity),
      owner: asked.owner === undefined ? caller.owner : asked.owner,
      attributes,
      strength: (asked.strength ?? caller.strength) as Strength,
      evidenceAt: new Date(0),
      expiresAt: new Date(600_000),
      run: null,
      digest: '',
    },
    capability: named,
    audience: named.audience === null ? null : (AUDIENCES[named.audience] ?? null),
    task: { purpose: asked.purpose ?? 'nightly report', labels: asked.labels ?? {}, owner: null, depth: asked.depth ?? 0 },
    ttlSeconds: asked.ttl ?? 300,
    evidenceAgeSeconds: asked.evidenceAge ?? 10,
    proof: asked.proof ?? true,
  }
}

export interface Logged {
  readonly fields: object
  readonly message: string
}

export interface PolicyHouse {
  readonly dir: string
  readonly policy: PolicyEngine
  readonly log: readonly Logged[]
  write(name: string, text: string): Promise<void>
}

/** A directory with the shipped schema and these files. */
export async function policyDir(files: Readonly<Record<string, string>>): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'curfew-policy-'))
  onTestFinished(() => rm(dir, { recursive: true, force: true }))
  await cp(join(SHIPPED, 'schema.cedarschema'), join(dir, 'schema.cedarschema'))
  for (const [name, text] of Object.entries(files)) await writeFile(join(dir, name), text)
  return dir
}

export async function engineAt(dir: string): Promise<PolicyHouse> {
  const log: Logged[] = []
  const note = (fields: object, message: string) => void log.push({ fields, message })
  const policy = await cedarPolicy({ dir, capabilities: CAPABILITIES, issuers: ISSUERS, genericClaims: GENERIC_CLAIMS, log: { error: note, info: () => {} } })
  return { dir, policy, log, write: (name, text) => writeFile(join(dir, name), text) }
}

export const shipped = () => engineAt(SHIPPED)
export const engineOf = async (policies: string): Promise<PolicyHouse> => engineAt(await policyDir({ 'test.cedar': policies }))

/** The condition that every permit needs: whose word, and who there. */
export const GITHUB = 'context.issuer == "github" && context has github && context.github.repository_id == "456789"'
export const permit = (id: string, conditions = '', annotations = '') =>
  `@id("${id}") ${annotations} permit (principal, action, resource) when { ${GITHUB}${conditions && ` && ${conditions}`} };\n`
export const forbid = (id: string, condition: string) => `@id("${id}") forbid (principal, action, resource) when { ${condition} };\n`
