import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { JWTPayload } from 'jose'
import supertest, { type Response } from 'supertest'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { reloadPolicies } from '../../src/serve.js'
import { type Caller, caller } from '../caller.js'
import { GITHUB, type House, makeHouse, ORDERS, SERVER } from '../house.js'

/** What a company writes that lets its CI publish and deploy: two organisations of its own, one of which may do things. */

const SHA = '3f1c2b7e9a4d5068f1e2d3c4b5a69788990a1b2c'
const PUBLISH = `acme/platform/.github/workflows/publish.yml@${SHA}`
const CI = 'acme/orders/.github/workflows/ci.yml@refs/heads/main'

const rule = (id: string, capability: string, conditions: string) => `@id("${id}")
permit (principal, action == Action::"issue", resource == Capability::"${capability}")
when {
  context.issuer == "github" && context has github &&
  context.github.repository_owner_id == "123456" && context.github.repository_id == "456789" &&
  ${conditions}
};
`
const POLICIES = `
${rule(
  'report-main',
  'ci/report',
  `["push", "workflow_dispatch"].contains(context.github.event_name) && context.github.ref == "refs/heads/main" &&
  context.github has ref_type && context.github.ref_type == "branch" && context.github has ref_protected && context.github.ref_protected == "true" &&
  context.github has workflow_ref && context.github.workflow_ref == "${CI}"`,
)}
${rule('notes-release', 'ci/notes', 'context.github.event_name == "push" && context.github.ref_prefixes.contains("refs/heads/release")')}
${rule(
  'publish-reviewed',
  'ci/publish',
  `context.github has job_workflow_ref && context.github.job_workflow_ref == "${PUBLISH}" &&
  context.github has job_workflow_sha && context.github.job_workflow_sha == "${SHA}"`,
)}
${rule('preview-own', 'ci/preview', 'context.github.event_name == "pull_request" && context.github has base_ref && context.github.base_ref == "main"')}
${rule(
  'sign-first',
  'ci/sign',
  `context.github has runner_environment && context.github.runner_environment == "github-hosted" &&
  context.github has run_attempt && context.github.run_attempt == "1"`,
)}
${rule('deploy-prod', 'deploy/prod', 'context.github has environment && context.github.environment == "production" && context.github.ref == "refs/heads/main"')}
${rule('deploy-eu', 'deploy/eu', 'context.github has environment && context.github.environment == "prod:eu"')}
@id("no-unattended-events") forbid (principal, action, resource)
when { context has github && !(["push", "workflow_dispatch", "schedule", "release", "pull_request"].contains(context.github.event_name)) };
@id("no-self-hosted-for-sensitive") forbid (principal, action, resource)
when { context.capability.sensitivity == "high" && context has github }
unless { context.github has runner_environment && context.github.runner_environment == "github-hosted" };
`

/** The rightful job of each capability, on top of a push to main. */
const RIGHTFUL: Readonly<Record<string, JWTPayload>> = {
  'ci/report': { ref_protected: 'true' },
  'ci/notes': { ref: 'refs/heads/release/1.2' },
  'ci/publish': { job_workflow_ref: PUBLISH, job_workflow_sha: SHA },
  'ci/preview': { event_name: 'pull_request', ref: 'refs/pull/7/merge', head_ref: 'fix', base_ref: 'main' },
  'ci/sign': {},
  'deploy/prod': { environment: 'production' },
  'deploy/eu': { environment: 'prod:eu' },
}

interface Case {
  readonly id: string
  readonly capability: string
  readonly attack: JWTPayload
  /** On top of the rightful job, in attack and twin alike. */
  readonly both?: JWTPayload
  readonly refused?: { readonly reason: string; readonly field: string }
  readonly denied?: { readonly reason: string; readonly failed: readonly { claim: string; actual: string | null }[] }
}

/** Denied by policy, for the one claim that differs, told with the caller's own value. */
const denied = (id: string, capability: string, attack: JWTPayload, claim: string, both: JWTPayload = {}, reason = 'no_permit'): Case => {
  const actual = attack[claim] === undefined ? null : String(attack[claim])
  return { id, capability, attack, both, denied: { reason, failed: [{ claim, actual }] } }
}
/** Not believed at all: no rule is looked at, and none is spoken of. */
const refused = (id: string, capability: string, attack: JWTPayload, ...[reason, field]: [string, string]): Case => {
  return { id, capability, attack, refused: { reason, field } }
}

/** The names of the rightful repository, on the word of somebody who owns another one. */
const NAMES = { repository: 'acme/orders', repository_owner: 'acme', sub: 'repo:acme/orders:ref:refs/heads/main' }
const AT_FORM = { ...NAMES, sub: 'repo:acme@123456/orders@456789:ref:refs/heads/main' }
const HYPHENS = { repository: 'acme-123456/orders-456789', repository_owner: 'acme-123456', sub: 'repo:acme-123456/orders-456789:ref:refs/heads/main' }

const CASES: readonly Case[] = [
  denied('T34 the same name, another repository_id', 'ci/report', { ...NAMES, repository_id: '999' }, 'repository_id'),
  denied('T34 a repository_id with a zero before it', 'ci/report', { repository_id: '0456789' }, 'repository_id'),
  denied('T34 transferred to the other organisation of the company', 'ci/report', { ...NAMES, repository_owner_id: '123457' }, 'repository_owner_id'),
  refused('T34 the same name under a stranger', 'ci/report', { ...NAMES, repository_owner_id: '999' }, 'tenant_refused', 'repository_owner_id'),
  refused('T34 a repository_id that is no number', 'ci/report', { repository_id: '456789 ' }, 'claim_invalid', 'repository_id'),
  refused('T34 a repository_id in two values', 'ci/report', { repository_id: ['456789', '999'] }, 'claim_invalid', 'repository_id'),
  refused('T34 no repository_id', 'ci/report', { repository_id: undefined }, 'claim_missing', 'repository_id'),

  denied('T35 an organisation literally named like a name and an id', 'ci/report', { ...HYPHENS, repository_id: '999' }, 'repository_id'),
  refused('T35 such an organisation of a stranger', 'ci/report', { ...HYPHENS, repository_owner_id: '999' }, 'tenant_refused', 'repository_owner_id'),
  denied('T35 the old form of the rightful subject', 'ci/report', { ...NAMES, repository_id: '999' }, 'repository_id', { sub: NAMES.sub }),
  denied('T35 the new form of the rightful subject', 'ci/report', { ...AT_FORM, repository_id: '999' }, 'repository_id', { sub: AT_FORM.sub }),
  denied('T35 a subject that the repository shaped itself', 'ci/report', { repository_id: '999' }, 'repository_id', { sub: 'repository_id:456789' }),

  denied('T36 pull_request_target, which the issuer lets through', 'ci/report', { event_name: 'pull_request_target' }, 'event_name', {}, 'forbidden'),
  denied('T36 a pull_request on the default branch', 'ci/report', { event_name: 'pull_request' }, 'event_name'),
  refused('T36 workflow_run', 'ci/report', { event_name: 'workflow_run' }, 'event_refused', 'event_name'),
  refused('T36 issue_comment', 'ci/report', { event_name: 'issue_comment' }, 'event_refused', 'event_name'),
  refused('T36 an event in another case', 'ci/report', { event_name: 'Push' }, 'event_refused', 'event_name'),
  refused('T36 no event', 'ci/report', { event_name: undefined }, 'claim_missing', 'event_name'),
  denied('T36 a pull_request into another branch', 'ci/preview', { base_ref: 'gh-pages' }, 'base_ref'),
  // A token that says where its code came from says so to be heard: GitHub itself gives forks none (standards.md 1.16).
  refused('T36 a pull_request out of a fork', 'ci/preview', { head_repository_id: '999' }, 'fork_refused', 'head_repository_id'),

  denied('T37 a branch that begins like main', 'ci/report', { ref: 'refs/heads/main-evil' }, 'ref'),
  denied('T37 a tag called main', 'ci/report', { ref: 'refs/tags/main' }, 'ref'),
  denied('T37 the merge of a pull request', 'ci/report', { ref: 'refs/pull/1/merge' }, 'ref'),
  denied('T37 a branch called by the whole ref', 'ci/report', { ref: 'refs/heads/refs/heads/main' }, 'ref'),
  denied('T37 main in another case', 'ci/report', { ref: 'refs/heads/Main' }, 'ref'),
  denied('T37 main with a space behind it', 'ci/report', { ref: 'refs/heads/main ' }, 'ref'),
  denied('T37 main with a slash behind it', 'ci/report', { ref: 'refs/heads/main/' }, 'ref'),
  refused('T37 main with a line end behind it', 'ci/report', { ref: 'refs/heads/main\n' }, 'claim_invalid', 'ref'),
  refused('T37 main among other refs', 'ci/report', { ref: ['refs/heads/main', 'refs/heads/evil'] }, 'claim_invalid', 'ref'),
  denied('T37 a tag behind a ref that reads like a branch', 'ci/report', { ref_type: 'tag' }, 'ref_type'),
  denied('T37 ref_protected false', 'ci/report', { ref_protected: 'false' }, 'ref_protected'),
  denied('T37 ref_protected false, as a truth', 'ci/report', { ref_protected: false }, 'ref_protected'),
  denied('T37 nothing said of its protection', 'ci/report', { ref_protected: undefined }, 'ref_protected'),
  denied('T37 another file at the right branch', 'ci/report', { workflow_ref: CI.replace('ci.yml', 'ci.yaml') }, 'workflow_ref'),
  denied('T37 the right file at another branch', 'ci/report', { workflow_ref: `${CI}-evil` }, 'workflow_ref'),
  denied('T37 a branch beside the release family', 'ci/notes', { ref: 'refs/heads/release-evil' }, 'ref'),
  denied('T37 a tag of the release family', 'ci/notes', { ref: 'refs/tags/release/1.2' }, 'ref'),
  denied('T37 the release family behind another segment', 'ci/notes', { ref: 'refs/heads/x/refs/heads/release' }, 'ref'),
  ...['refs/tags/v1', 'refs/heads/main', SHA.slice(0, 7), SHA.toUpperCase(), `refs/tags/${SHA}`, `refs/heads/${SHA}`].map(at =>
    denied(`T37 the reusable workflow at ${at}`, 'ci/publish', { job_workflow_ref: PUBLISH.replace(SHA, at) }, 'job_workflow_ref'),
  ),
  denied('T37 the workflow of another owner', 'ci/publish', { job_workflow_ref: PUBLISH.replace('acme/', 'evil/') }, 'job_workflow_ref'),
  denied('T37 of another repository', 'ci/publish', { job_workflow_ref: PUBLISH.replace('platform', 'platform-fork') }, 'job_workflow_ref'),
  denied('T37 in another folder', 'ci/publish', { job_workflow_ref: PUBLISH.replace('.github', 'x/.github') }, 'job_workflow_ref'),
  denied('T37 no reusable workflow', 'ci/publish', { job_workflow_ref: undefined }, 'job_workflow_ref'),
  denied('T37 the right ref, another commit behind it', 'ci/publish', { job_workflow_sha: SHA.replace('3', '4') }, 'job_workflow_sha'),
  denied('T37 the right ref, and no commit', 'ci/publish', { job_workflow_sha: undefined }, 'job_workflow_sha'),

  denied('T38 no environment', 'deploy/prod', { environment: undefined }, 'environment'),
  ...['Production', 'PRODUCTION', 'production ', ' production', 'production:x', 'x:production', 'staging:environment:production', ''].map(environment =>
    denied(`T38 the environment ${JSON.stringify(environment)}`, 'deploy/prod', { environment }, 'environment'),
  ),
  refused('T38 an environment with a look-alike', 'deploy/prod', { environment: 'pr\u043eduction' }, 'claim_invalid', 'environment'),
  refused('T38 an environment with a joiner inside', 'deploy/prod', { environment: 'produc\u200dtion' }, 'claim_invalid', 'environment'),
  denied('T38 a colon written otherwise', 'deploy/eu', { environment: 'prod%3Aeu' }, 'environment'),
  denied('T38 what stands before the colon', 'deploy/eu', { environment: 'prod' }, 'environment', { sub: 'repo:acme/orders:environment:prod:eu' }),
  denied('T38 a branch named like an environment', 'deploy/prod', { environment: undefined }, 'environment', {
    sub: 'repo:acme/orders:ref:refs/heads/x:environment:production',
  }),
  denied('T38 that branch, in the environment', 'deploy/prod', { ref: 'refs/heads/x:environment:production' }, 'ref'),

  denied('T39 self-hosted, where the house forbids it', 'deploy/prod', { runner_environment: 'self-hosted' }, 'runner_environment', {}, 'forbidden'),
  denied('T39 nothing said of its runner', 'deploy/prod', { runner_environment: undefined }, 'runner_environment', {}, 'forbidden'),
  denied('T39 self-hosted, where the rule wants hosted', 'ci/sign', { runner_environment: 'self-hosted' }, 'runner_environment'),
  denied('T39 hosted in another case', 'ci/sign', { runner_environment: 'GitHub-hosted' }, 'runner_environment'),
  denied('T39 the re-run of an old run', 'ci/sign', { run_attempt: '2' }, 'run_attempt', { run_id: '9912' }),
  denied('T39 the re-run, counted in a number', 'ci/sign', { run_attempt: 2 }, 'run_attempt'),
  denied('T39 a first run spelt otherwise', 'ci/sign', { run_attempt: '01' }, 'run_attempt'),
  denied('T39 nothing said of its attempt', 'ci/sign', { run_attempt: undefined }, 'run_attempt'),
  refused('T39 an attempt and a half', 'ci/sign', { run_attempt: 1.5 }, 'claim_invalid', 'run_attempt'),
]

let house: House
let ci: Caller
let granted = 0

const github = (more: object = {}) => ({
  ...{ name: 'github', kind: 'oidc', profile: 'github', issuer: GITHUB, keys: { file: 'github.jwks' }, algs: ['RS256'] },
  ...{ pin: { repository_owner_id: ['123456', '123457'] }, allowEvents: ['pull_request_target'] },
  ...more,
})
const agents = { name: 'agents', kind: 'registered', agents: [{ name: 'reporter', owner: '@data', key: { file: 'agent.jwk' } }] }

const capability = (name: string) => {
  const heavy = name === 'ci/publish' || name.startsWith('deploy/')
  const classes = heavy ? { intent: 'destructive', sensitivity: 'high' } : { intent: 'read' }
  return { name, summary: name, engine: 'jwt', audience: 'orders', scopes: [name.replace('/', ':')], ...classes }
}

beforeAll(async () => {
  house = await makeHouse({ policies: POLICIES, capabilities: Object.keys(RIGHTFUL).map(capability), more: { issuers: [github(), agents] } })
  ci = await caller(house)
})
afterAll(() => house?.close())

/** The rows that an act leaves, oldest first. */
async function rowsOf<T>(act: () => Promise<T>): Promise<{ answer: T; rows: Awaited<ReturnType<House['audits']>> }> {
  const before = Number((await house.audits())[0]?.id ?? 0)
  const answer = await act()
  return { answer, rows: (await house.audits()).filter(r => Number(r.id) > before).reverse() }
}

const explain = async (subject_token: string, name: string): Promise<Response> =>
  supertest(house.http).post('/v1/decisions:explain').send({ subject_token, capability: name })
const open = (subject_token: string, name: string) => ci.open({ subject_token, capabilities: [name] })
const exchange = (subject_token: string, name: string) => {
  const authorization_details = JSON.stringify([{ type: `${SERVER}/rar/task/v1`, purpose: 'nightly report', capabilities: [name] }])
  return ci.exchange({ subject_token, resource: ORDERS, authorization_details })
}

/** One door, one refusal: the status and words of that door, one row with the reason, and nothing made. */
async function refusedAt(c: Case, act: () => Promise<Response>, wanted: { status: number; error?: string; also?: string[] }): Promise<Response> {
  const { answer, rows } = await rowsOf(act)
  const reason = c.denied?.reason ?? c.refused?.reason
  expect(answer.body).toMatchObject({ code: c.denied ? 'policy_denied' : 'attestation_refused', reason })
  expect([answer.status, answer.body.error]).toEqual([wanted.status, wanted.error])
  expect(rows.map(r => r.kind)).toEqual([...(wanted.also ?? []), c.denied ? 'decision.denied' : 'attestation.refused'])
  expect(rows.at(-1)?.reason).toBe(reason)
  for (const made of ['task', 'token', 'access_token', 'credential', 'secret']) expect(answer.body).not.toHaveProperty(made)
  if (c.refused) {
    expect(answer.body.field).toBe(c.refused.field)
    for (const told of ['failed', 'nearest_rule', 'decision_id']) expect(answer.body).not.toHaveProperty(told)
    return answer
  }
  const { failed, decision_id, identity, nearest_rule } = answer.body
  expect(failed).toEqual(c.denied?.failed)
  const wrote = { allowed: false, reason, capability: c.capability, identity, explanation: { failed, nearestRule: nearest_rule } }
  expect(await house.app.store.decisions.get(decision_id)).toMatchObject(wrote)
  expect(rows.at(-1)).toMatchObject({ subject: decision_id, data: { capability: c.capability } })
  return answer
}

describe.each(CASES)('$id', c => {
  const rightful = { ...RIGHTFUL[c.capability], ...c.both }
  const attack = () => house.evidence({ ...rightful, ...c.attack })

  it('is refused at every door alike, and nothing is issued', async () => {
    const evidence = await attack()
    const { answer: why, rows } = await rowsOf(() => explain(evidence, c.capability))
    if (c.denied) {
      expect(why.body.decision).toMatchObject({ allowed: false, reason: c.denied.reason, failed: c.denied.failed })
      expect(rows).toEqual([])
    } else await refusedAt(c, () => explain(evidence, c.capability), { status: 401 })
    const { body } = await refusedAt(c, () => open(evidence, c.capability), { status: c.denied ? 403 : 401 })
    if (c.denied) expect(why.body.decision).toMatchObject({ nearest_rule: body.nearest_rule, identity: body.identity })
    await refusedAt(c, () => exchange(evidence, c.capability), { status: 400, error: c.denied ? 'access_denied' : 'invalid_request' })
  })

  it('twin: without it the same job is granted, and its task is not carried on by the attack', async () => {
    const evidence = await house.evidence(rightful)
    expect((await explain(evidence, c.capability)).body.decision).toMatchObject({ allowed: true, reason: 'permitted', failed: [] })
    expect((await exchange(evidence, c.capability)).body).toMatchObject({ token_type: 'DPoP', scope: c.capability.replace('/', ':') })
    granted++
    const held = await ci.opened({ subject_token: await house.evidence(rightful), capabilities: [c.capability] })
    const again = async (subject_token: string) => ci.credential(held, c.capability, { subject_token })
    if ('repository_id' in c.attack && c.denied)
      expect((await again(await attack())).body).toMatchObject({ status: 401, reason: 'identity_mismatch', field: 'subject_token' })
    else await refusedAt(c, async () => again(await attack()), { status: c.denied ? 403 : 401, also: c.denied ? ['task.attested'] : [] })
    expect((await again(await house.evidence(rightful))).status).toBe(201)
    granted++
  })
})

it('of all these, what was issued is what the twins were granted', async () => {
  expect(await house.app.store.credentials.list({ limit: 1_000 })).toHaveLength(granted)
})

describe('T33 a rule that only names its issuer and audience', () => {
  const candidate = () => join(house.app.config.policies.dir, 'candidate.cedar')
  afterEach(() => rmSync(candidate(), { force: true }))
  const permit = (conditions: string) => `@id("candidate") permit (principal, action, resource == Capability::"ci/preview") when { ${conditions} };`
  const issuer = 'context.issuer == "github"'
  const who = `${issuer} && context has github && context.github.repository_id == "456789"`

  it.each([
    ['names nothing', 'true', /whose word/],
    ['the issuer', issuer, /permits everybody/],
    ['and our audience', `${issuer} && context.capability has audience && context.capability.audience == "orders"`, /permits everybody/],
    ['and a branch', `${issuer} && context has github && context.github.ref == "refs/heads/main"`, /permits everybody/],
    ['and a name', `${issuer} && context has github && context.github has repository && context.github.repository == "a/b"`, /permits everybody/],
    ['and everybody but one', `${issuer} && context has github && context.github.repository_id != "1"`, /permits everybody/],
    ['a repository of any issuer', 'context has github && context.github.repository_id == "456789"', /whose word/],
    ['T35 a name by its beginning', `${who} && context.github has repository && context.github.repository like "octo-org*"`, /"like" on .*repository/],
  ])('%s: is refused when it is loaded, told in one row, and what was in force stays', async (_name, conditions, says) => {
    const { policy } = house.app.deps
    const stranger = () => house.evidence({ ...RIGHTFUL['ci/preview'], repository_id: '999' })
    const before = policy.digest
    writeFileSync(candidate(), permit(conditions))
    await expect(policy.reload()).rejects.toThrow(says)
    expect((await rowsOf(() => reloadPolicies(house.app))).rows).toMatchObject([{ kind: 'policy.refused', reason: 'policies_refused', subject: before }])
    expect((await explain(await stranger(), 'ci/preview')).body.decision).toMatchObject({ allowed: false, policy_digest: before })

    writeFileSync(candidate(), permit(who))
    expect((await rowsOf(() => reloadPolicies(house.app))).rows).toMatchObject([{ kind: 'policy.loaded', reason: null }])
    expect(policy.digest).not.toBe(before)
    expect((await explain(await house.evidence(), 'ci/preview')).body.decision).toMatchObject({ allowed: true, policies: ['candidate'] })
    expect((await explain(await stranger(), 'ci/preview')).body.decision).toMatchObject({ allowed: false })
    rmSync(candidate())
    await reloadPolicies(house.app)
    expect(policy.digest).toBe(before)
  })

  const shared = [
    [GITHUB, 'repository_owner_id'],
    ['https://gitlab.com', 'namespace_id'],
    ['https://agent.buildkite.com', 'organization_id'],
    ['https://accounts.google.com', 'google/compute_engine/project_id'],
    ['https://login.microsoftonline.com/common/v2.0', 'tid'],
  ] as const
  const of = (at: string, pin: object, i = 0) => github({ name: `shared-${i}`, profile: 'generic', issuer: at, pin })
  const named = [of('https://ci.example', {}), agents].map((known, i) => ({ ...known, name: ['github', 'agents'][i] }))

  it.each(shared)('the issuer %s may not be trusted without saying whose tokens', async (at, pin) => {
    for (const none of [{}, { aud: [SERVER] }, { iss: [at], [pin.toUpperCase()]: ['1'] }])
      await expect(makeHouse({ more: { issuers: [...named, of(at, none)] } })).rejects.toThrow(/many tenants/)
  })
  it('twin: all of them, each with its tenant', async () => {
    const pinned = shared.map(([at, pin], i) => of(at, { [pin]: ['1'] }, i))
    await (await makeHouse({ more: { issuers: [...named, ...pinned] } })).close()
  })
})
