import type { JWTPayload } from 'jose'
import supertest, { type Response } from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { CiProvider } from '../../src/dev/ci-tokens.js'
import { type Caller, caller } from '../caller.js'
import { type House, ORDERS, SERVER } from '../house.js'
import { ciHouse, ciToken } from '../providers.js'

/** What a company writes that lets its jobs on GitLab, Buildkite and CircleCI read, deploy and sign, and what strangers to it try. */

const ids = {
  gitlab: 'context.issuer == "gitlab" && context has gitlab && context.gitlab.project_id == "20"',
  buildkite:
    'context.issuer == "buildkite" && context has buildkite && context.buildkite.organization_id == "0184990a-477b-4fa8-9968-496074483c77" && context.buildkite.pipeline_id == "0184990a-4782-42b5-afc1-16715b10b1f0"',
  circleci:
    'context.issuer == "circleci" && context has circleci && context.circleci.project_id == "3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c" && context.circleci has vcs_origin && context.circleci.vcs_origin == "github.com/acme/orders"',
} as const
const rule = (id: string, capability: string, conditions: string) =>
  `@id("${id}") permit (principal, action == Action::"issue", resource == Capability::"${capability}") when { ${conditions} };\n`

const POLICIES = [
  rule(
    'gitlab-report',
    'ci/report',
    `${ids.gitlab} && context.gitlab.ref_path == "refs/heads/main" && context.gitlab has ref_protected && context.gitlab.ref_protected == "true" && ["push", "schedule"].contains(context.gitlab.pipeline_source)`,
  ),
  rule('gitlab-release', 'ci/notes', `${ids.gitlab} && context.gitlab.ref_path_prefixes.contains("refs/heads/release")`),
  rule(
    'gitlab-deploy',
    'ci/deploy',
    `${ids.gitlab} && context.gitlab has environment && context.gitlab.environment == "production" && context.gitlab has environment_protected && context.gitlab.environment_protected == "true"`,
  ),
  rule(
    'gitlab-publish',
    'ci/publish',
    `${ids.gitlab} && context.gitlab has ci_config_ref_uri && context.gitlab.ci_config_ref_uri == "gitlab.com/acme/orders//.gitlab-ci.yml@refs/heads/main" && context.gitlab has runner_environment && context.gitlab.runner_environment == "gitlab-hosted"`,
  ),
  rule(
    'buildkite-report',
    'ci/report',
    `${ids.buildkite} && context.buildkite.build_branch == "main" && context.buildkite has build_source && context.buildkite.build_source == "webhook"`,
  ),
  rule('buildkite-release', 'ci/notes', `${ids.buildkite} && context.buildkite.build_branch_prefixes.contains("release")`),
  rule(
    'buildkite-deploy',
    'ci/deploy',
    `${ids.buildkite} && context.buildkite has step_key && context.buildkite.step_key == "deploy" && context.buildkite has cluster_id && context.buildkite.cluster_id == "trusted"`,
  ),
  rule('circleci-report', 'ci/report', `${ids.circleci} && context.circleci has vcs_ref && context.circleci.vcs_ref == "refs/heads/main"`),
  rule(
    'circleci-release',
    'ci/notes',
    `${ids.circleci} && context.circleci has vcs_ref_prefixes && context.circleci.vcs_ref_prefixes.contains("refs/heads/release")`,
  ),
  rule(
    'circleci-deploy',
    'ci/deploy',
    `${ids.circleci} && context.circleci has context_ids && context.circleci.context_ids.contains("7b6a5c4d-3e2f-4a1b-8c9d-0e1f2a3b4c5d")`,
  ),
].join('')

const cc = (claims: Record<string, unknown>): JWTPayload =>
  Object.fromEntries(Object.entries(claims).map(([name, value]) => [`oidc.circleci.com/${name}`, value]))

/** The rightful job of each capability, on top of a push to main. */
const RIGHTFUL: Readonly<Record<string, Readonly<Record<string, JWTPayload>>>> = {
  gitlab: {
    'ci/report': {},
    'ci/notes': { ref: 'release/1.2', ref_path: 'refs/heads/release/1.2' },
    'ci/deploy': { environment: 'production', environment_protected: 'true' },
    'ci/publish': {},
  },
  buildkite: { 'ci/report': {}, 'ci/notes': { build_branch: 'release/1.2' }, 'ci/deploy': { step_key: 'deploy', cluster_id: 'trusted' } },
  circleci: { 'ci/report': {}, 'ci/notes': cc({ 'vcs-ref': 'refs/heads/release/1.2' }), 'ci/deploy': {} },
}

interface Case {
  readonly id: string
  readonly provider: CiProvider
  readonly capability: string
  readonly attack: JWTPayload
  readonly refused?: readonly [reason: string, field: string]
  readonly denied?: readonly [claim: string, actual: string | null]
}
const of = (provider: CiProvider) => ({
  refused: (id: string, capability: string, attack: JWTPayload, ...refusal: [string, string]): Case => ({
    id: `${id} (${provider})`,
    provider,
    capability,
    attack,
    refused: refusal,
  }),
  denied: (id: string, capability: string, attack: JWTPayload, ...differs: [string, string | null]): Case => ({
    id: `${id} (${provider})`,
    provider,
    capability,
    attack,
    denied: differs,
  }),
})
const gitlab = of('gitlab')
const buildkite = of('buildkite')
const circleci = of('circleci')
const STRANGER = '0184990a-4782-42b5-afc1-ffffffffffff'

const CASES: readonly Case[] = [
  gitlab.denied('P2 T34 the path of the project, taken over by another', 'ci/report', { project_id: '21', job_project_id: '21' }, 'project_id', '21'),
  gitlab.refused(
    'P9 T33 a project of another tenant',
    'ci/report',
    { project_id: '21', job_project_id: '21', namespace_id: '666' },
    'tenant_refused',
    'namespace_id',
  ),
  gitlab.refused('P2 T60 a number in another spelling', 'ci/report', { project_id: '020', job_project_id: '020' }, 'claim_invalid', 'project_id'),
  gitlab.refused(
    'P8 T36 the merge request of a fork, which runs in the project',
    'ci/report',
    { project_id: '99', namespace_id: '72', project_path: 'stranger/orders' },
    'fork_refused',
    'job_project_id',
  ),
  gitlab.refused('P8 T36 the project’s own code in the fork of a stranger', 'ci/report', { job_project_id: '99' }, 'fork_refused', 'job_project_id'),
  gitlab.denied(
    'P4 T36 a merge request of the project itself, where a push is wanted',
    'ci/report',
    { pipeline_source: 'merge_request_event' },
    'pipeline_source',
    'merge_request_event',
  ),
  gitlab.refused('P4 T36 a pull request from outside', 'ci/report', { pipeline_source: 'external_pull_request_event' }, 'event_refused', 'pipeline_source'),
  gitlab.refused('P4 T36 a source that nobody has thought of', 'ci/report', { pipeline_source: 'brand_new' }, 'event_refused', 'pipeline_source'),
  gitlab.denied('P8 T37 an unprotected branch, in the text that GitLab writes', 'ci/report', { ref_protected: 'false' }, 'ref_protected', 'false'),
  gitlab.denied('P8 T37 nothing said of its protection', 'ci/report', { ref_protected: undefined }, 'ref_protected', null),
  gitlab.denied('T37 a tag called main', 'ci/report', { ref_type: 'tag', ref_path: 'refs/tags/main' }, 'ref_path', 'refs/tags/main'),
  gitlab.denied('T37 a branch that begins like main', 'ci/report', { ref: 'main-evil', ref_path: 'refs/heads/main-evil' }, 'ref_path', 'refs/heads/main-evil'),
  gitlab.refused('T37 main with a line end behind it', 'ci/report', { ref: 'main\n' }, 'claim_invalid', 'ref'),
  gitlab.denied(
    'P1 T37 a branch beside the release family',
    'ci/notes',
    { ref: 'release-evil', ref_path: 'refs/heads/release-evil' },
    'ref_path',
    'refs/heads/release-evil',
  ),
  gitlab.denied('T38 P5 the environment in another case', 'ci/deploy', { environment: 'Production' }, 'environment', 'Production'),
  gitlab.denied('T38 no environment', 'ci/deploy', { environment: undefined }, 'environment', null),
  gitlab.denied(
    'T38 an environment of that name that anybody may deploy to',
    'ci/deploy',
    { environment_protected: 'false' },
    'environment_protected',
    'false',
  ),
  gitlab.denied(
    'P6 T37 a pipeline that another file defines',
    'ci/publish',
    { ci_config_ref_uri: 'gitlab.com/evil/ci//.gitlab-ci.yml@refs/heads/main' },
    'ci_config_ref_uri',
    'gitlab.com/evil/ci//.gitlab-ci.yml@refs/heads/main',
  ),
  gitlab.denied('P7 T39 a runner of one’s own', 'ci/publish', { runner_environment: 'self-hosted' }, 'runner_environment', 'self-hosted'),
  gitlab.refused('P10 T25 a token for another service, or for GitLab itself', 'ci/report', { aud: 'https://gitlab.com' }, 'audience_mismatch', 'aud'),
  gitlab.refused('T26 a token for us and others', 'ci/report', { aud: [SERVER, 'https://vault.example'] }, 'audience_mismatch', 'aud'),
  gitlab.refused('P11 T39 a job that may take a day', 'ci/report', { exp: 2_000_000_000 }, 'life_too_long', 'exp'),

  buildkite.refused('P9 T33 another organization', 'ci/report', { organization_id: STRANGER, organization_slug: 'acme' }, 'tenant_refused', 'organization_id'),
  buildkite.refused('P2 the slugs alone', 'ci/report', { organization_id: undefined, pipeline_id: undefined }, 'tenant_refused', 'organization_id'),
  buildkite.refused('P2 the slug of the pipeline alone', 'ci/report', { pipeline_id: undefined }, 'claim_missing', 'pipeline_id'),
  buildkite.denied('P2 T34 a pipeline that took the slug over', 'ci/report', { pipeline_id: STRANGER }, 'pipeline_id', STRANGER),
  buildkite.refused('P2 T60 an id in capitals', 'ci/report', { pipeline_id: '0184990A-4782-42B5-AFC1-16715B10B1F0' }, 'claim_invalid', 'pipeline_id'),
  buildkite.denied('T37 a branch that begins like main', 'ci/report', { build_branch: 'main-evil' }, 'build_branch', 'main-evil'),
  buildkite.denied(
    'P8 T36 the branch main of a fork, as the pipeline prefixes it',
    'ci/report',
    { build_branch: 'stranger:main' },
    'build_branch',
    'stranger:main',
  ),
  buildkite.denied('P1 T37 a branch beside the release family', 'ci/notes', { build_branch: 'release-evil' }, 'build_branch', 'release-evil'),
  buildkite.denied('P4 T36 a build that was started by hand, where a webhook is wanted', 'ci/report', { build_source: 'ui' }, 'build_source', 'ui'),
  buildkite.denied('T38 another step of the pipeline', 'ci/deploy', { step_key: 'test' }, 'step_key', 'test'),
  buildkite.denied('P7 T39 the same step on agents of another cluster', 'ci/deploy', { cluster_id: 'anybody' }, 'cluster_id', 'anybody'),
  buildkite.refused('P10 T25 what its tokens are for by default', 'ci/report', { aud: 'https://buildkite.com/acme' }, 'audience_mismatch', 'aud'),

  circleci.refused('P11 T39 a job that was re-run with SSH', 'ci/report', cc({ 'ssh-rerun': true }), 'ssh_rerun_refused', 'oidc.circleci.com/ssh-rerun'),
  circleci.refused('P11 T39 nothing said of SSH', 'ci/report', cc({ 'ssh-rerun': undefined }), 'claim_missing', 'oidc.circleci.com/ssh-rerun'),
  circleci.denied(
    'P8 T36 the build of a fork, which bears the project’s id',
    'ci/report',
    cc({ 'vcs-origin': 'github.com/stranger/orders' }),
    'vcs_origin',
    'github.com/stranger/orders',
  ),
  circleci.denied('P8 T36 a pipeline of a custom webhook, of no origin', 'ci/report', cc({ 'vcs-origin': undefined }), 'vcs_origin', null),
  circleci.denied('T34 another project of the organization', 'ci/report', cc({ 'project-id': STRANGER }), 'project_id', STRANGER),
  circleci.refused(
    'P9 T33 another organization, on the word of this one',
    'ci/report',
    cc({ 'org-id': STRANGER }),
    'claim_mismatch',
    'oidc.circleci.com/org-id',
  ),
  circleci.denied('T37 another branch', 'ci/report', cc({ 'vcs-ref': 'refs/heads/main-evil' }), 'vcs_ref', 'refs/heads/main-evil'),
  circleci.denied('T37 a pull request', 'ci/report', cc({ 'vcs-ref': 'refs/pull/7/head' }), 'vcs_ref', 'refs/pull/7/head'),
  circleci.denied('P1 T37 a branch beside the release family', 'ci/notes', cc({ 'vcs-ref': 'refs/heads/release-evil' }), 'vcs_ref', 'refs/heads/release-evil'),
  circleci.denied('T38 a job without the context that people must be admitted to', 'ci/deploy', cc({ 'context-ids': ['0'] }), 'context_ids', '0'),
  circleci.denied('T38 a job without any context', 'ci/deploy', cc({ 'context-ids': undefined }), 'context_ids', null),
  circleci.refused(
    'T38 a context as a text',
    'ci/deploy',
    cc({ 'context-ids': '7b6a5c4d-3e2f-4a1b-8c9d-0e1f2a3b4c5d' }),
    'claim_invalid',
    'oidc.circleci.com/context-ids',
  ),
  circleci.refused('P10 T25 what its tokens are for by default', 'ci/report', { aud: 'c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e' }, 'audience_mismatch', 'aud'),
]

let house: House
let ci: Caller
let granted = 0

beforeAll(async () => {
  const capability = (name: string) => ({ name, summary: name, engine: 'jwt', audience: 'orders', scopes: [name.replace('/', ':')], intent: 'read' })
  house = await ciHouse({ policies: POLICIES, capabilities: ['ci/report', 'ci/notes', 'ci/deploy', 'ci/publish'].map(capability) })
  ci = await caller(house)
})
afterAll(() => house?.close())

async function rowsOf(act: () => Promise<Response>): Promise<{ answer: Response; rows: { kind: string; reason: string | null }[] }> {
  const before = Number((await house.audits())[0]?.id ?? 0)
  const answer = await act()
  return { answer, rows: (await house.audits()).filter(r => Number(r.id) > before).map(({ kind, reason }) => ({ kind, reason })) }
}

const open = (subject_token: string, name: string) => ci.open({ subject_token, capabilities: [name] })
const exchange = (subject_token: string, name: string) => {
  const authorization_details = JSON.stringify([{ type: `${SERVER}/rar/task/v1`, purpose: 'nightly report', capabilities: [name] }])
  return ci.exchange({ subject_token, resource: ORDERS, authorization_details })
}
const explain = async (subject_token: string, capability: string): Promise<Response> =>
  supertest(house.http).post('/v1/decisions:explain').send({ subject_token, capability })
const whoami = async (subject_token: string): Promise<Response> => supertest(house.http).post('/v1/evidence:explain').send({ subject_token })

describe.each(CASES)('$id', c => {
  const rightful = RIGHTFUL[c.provider]?.[c.capability] as JWTPayload
  const attack = () => ciToken(house, c.provider, { ...rightful, ...c.attack })

  it('is refused at every door alike, in one row, and nothing is issued', async () => {
    const evidence = await attack()
    for (const [act, status] of [
      [open, c.denied ? 403 : 401],
      [exchange, 400],
    ] as const) {
      const { answer, rows } = await rowsOf(() => act(evidence, c.capability))
      expect(answer.status).toBe(status)
      const reason = c.refused?.[0] ?? 'no_permit'
      expect(answer.body).toMatchObject({ code: c.denied ? 'policy_denied' : 'attestation_refused', reason })
      expect(rows).toEqual([{ kind: c.denied ? 'decision.denied' : 'attestation.refused', reason }])
      if (c.refused) expect(answer.body.field).toBe(c.refused[1])
      if (c.denied) expect(answer.body.failed).toEqual([{ claim: c.denied[0], actual: c.denied[1] }])
      for (const made of ['task', 'token', 'access_token', 'credential', 'secret']) expect(answer.body).not.toHaveProperty(made)
    }
    const seen = await whoami(evidence)
    if (c.refused) {
      expect((await explain(evidence, c.capability)).body.reason).toBe(c.refused[0])
      expect(seen.body).toMatchObject({ code: 'attestation_refused', reason: c.refused[0] })
    } else {
      expect((await explain(evidence, c.capability)).body.decision).toMatchObject({ allowed: false, failed: [{ claim: c.denied?.[0], actual: c.denied?.[1] }] })
      expect((seen.body.capabilities as { name: string }[]).map(o => o.name)).not.toContain(c.capability)
    }
  })

  it('twin: without it the same job is granted, and may ask for it by its own account', async () => {
    const evidence = await ciToken(house, c.provider, rightful)
    expect(((await whoami(evidence)).body.capabilities as { name: string }[]).map(o => o.name)).toContain(c.capability)
    expect((await exchange(evidence, c.capability)).body).toMatchObject({ token_type: 'DPoP', scope: c.capability.replace('/', ':') })
    granted++
  })
})

it('of all these, what was issued is what the twins were granted', async () => {
  expect(await house.app.store.credentials.list({ limit: 1_000 })).toHaveLength(granted)
})

it('P9 T10 the word of one provider is worth nothing in the name of another, whoever signs', async () => {
  const providers = ['github', 'gitlab', 'buildkite', 'circleci'] as const
  for (const as of providers)
    for (const claims of providers.filter(p => p !== as)) {
      const theirs = await ciToken(house, claims)
      const { iss: _, ...stated } = JSON.parse(Buffer.from(theirs.split('.')[1] as string, 'base64url').toString()) as JWTPayload
      const own = JSON.parse(Buffer.from((await ciToken(house, as)).split('.')[1] as string, 'base64url').toString()) as JWTPayload
      const token = await house.github.mint({ ...stated, iss: own.iss as string, iat: own.iat as number, exp: own.exp as number })
      expect((await open(token, 'ci/report')).body).toMatchObject({ status: 401, code: 'attestation_refused' })
    }
})
