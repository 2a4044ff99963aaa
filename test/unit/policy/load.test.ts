/** Owns what may not be loaded: every refusal beside the policy that differs from it only in the fault. */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { CurfewError } from '../../../src/domain/errors.js'
import { cedarPolicy } from '../../../src/policy/cedar.js'
import { CAPABILITIES, engineAt, engineOf, forbid, GITHUB, ISSUERS, permit, policyDir, request, SHIPPED } from './house.js'

async function refusal(policies: string): Promise<CurfewError> {
  const error = await engineOf(policies).then(
    () => null,
    (e: unknown) => e,
  )
  if (!(error instanceof CurfewError)) throw new Error(`these policies were loaded, or failed otherwise: ${policies}\n${error}`)
  expect(error.code).toBe('malformed')
  expect(error.facts.reason).toBe('policies_refused')
  return error
}

interface Refused {
  readonly why: string
  readonly bad: string
  readonly good: string
  readonly says: RegExp
}

const bare = (condition: string) => `@id("a") permit (principal, action, resource) when { ${condition} };`
const DESTRUCTIVE = 'resource == Capability::"deploy/prod"'
const CIRCLECI = 'context.issuer == "circleci" && context has circleci && context.circleci.project_id == "p"'
const REUSABLE = 'context.github has job_workflow_ref && context.github.job_workflow_ref == "acme/p/.github/workflows/d.yml@refs/heads/main"'

const CASES: readonly Refused[] = [
  { why: 'T33 a permit without any condition', bad: '@id("a") permit (principal, action, resource);', good: permit('a'), says: /whose word/ },
  { why: 'T33 P9 a permit that only names its issuer', bad: bare('context.issuer == "github"'), good: permit('a'), says: /permits everybody/ },
  {
    why: 'T33 P10 a permit by issuer and audience of the token',
    bad: bare('context.issuer == "forge" && context has oidc && context.oidc.claims has aud && context.oidc.claims.aud == "x"'),
    good: bare('context.issuer == "forge" && context has oidc && context.oidc.claims has project_id && context.oidc.claims.project_id == "42"'),
    says: /permits everybody/,
  },
  {
    why: 'T33 a permit that names a repository but not whose word it believes',
    bad: bare('context has github && context.github.repository_id == "1"'),
    good: permit('a'),
    says: /whose word/,
  },
  {
    why: 'T33 a permit that names its repository in one branch of an "or" only',
    bad: bare('context.issuer == "github" && context has github && (context.github.repository_id == "1" || context.github.ref == "refs/heads/main")'),
    good: bare('context.issuer == "github" && context has github && (context.github.repository_id == "1" || context.github.repository_id == "2")'),
    says: /permits everybody/,
  },
  {
    why: 'T33 a permit for everybody but one',
    bad: bare('context.issuer == "github" && context has github && context.github.repository_id != "1"'),
    good: permit('a'),
    says: /permits everybody/,
  },
  {
    why: 'T34 P2 a permit by the name of a repository, which can be reused',
    bad: bare('context.issuer == "github" && context has github && context.github has repository && context.github.repository == "acme/orders"'),
    good: permit('a', 'context.github has repository && context.github.repository == "acme/orders"'),
    says: /permits everybody.*repository_id/,
  },
  {
    why: 'P1 T32 T35 a wildcard on a ref, which crosses /',
    bad: permit('a', 'context.github.ref like "refs/heads/release*"'),
    good: permit('a', 'context.github.ref_prefixes.contains("refs/heads/release")'),
    says: /"like" on context\.github\.ref: a wildcard there crosses/,
  },
  {
    why: 'P1 P3 T35 a wildcard on sub',
    bad: bare('context.issuer == "forge" && context has oidc && context.oidc.claims has sub && context.oidc.claims.sub like "project_path:acme/*"'),
    good: bare('context.issuer == "forge" && context has oidc && context.oidc.claims has sub && context.oidc.claims.sub == "project_path:acme/orders"'),
    says: /"like" on context\.oidc\.claims\.sub/,
  },
  {
    why: 'P1 a wildcard that widens a permit from within the unless of a forbid',
    bad: `${permit('a')}@id("b") forbid (principal, action, resource) when { context has github } unless { context.github.ref like "refs/*" };`,
    good: `${permit('a')}@id("b") forbid (principal, action, resource) when { context has github && context.github.ref like "refs/pull/*" };`,
    says: /b grants by "like"/,
  },
  {
    why: 'P1 a pattern without a fixed beginning, even on a flat name',
    bad: bare(
      'context.issuer == "cluster" && context has kubernetes && context.kubernetes.namespace == "x" && context.kubernetes.serviceaccount like "*-runner"',
    ),
    good: bare('context.issuer == "cluster" && context has kubernetes && context.kubernetes.namespace == "x" && context.kubernetes.serviceaccount like "ci-*"'),
    says: /no fixed beginning/,
  },
  {
    why: 'P6 what is destructive by a reusable workflow at a ref that can be moved',
    bad: permit('a', `${DESTRUCTIVE} && ${REUSABLE}`),
    good: permit('a', `${DESTRUCTIVE} && ${REUSABLE} && context.github has job_workflow_sha && context.github.job_workflow_sha == "3f1c"`),
    says: /job_workflow_sha/,
  },
  {
    why: 'P6 the same, reaching what is destructive because it names no capability',
    bad: permit('a', REUSABLE),
    good: permit('a', `resource == Capability::"db/orders-ro" && ${REUSABLE}`),
    says: /job_workflow_sha/,
  },
  {
    why: 'T34 P2 a permit by the path of a project of GitLab, or the slug of a pipeline of Buildkite',
    bad: `${bare('context.issuer == "gitlab" && context has gitlab && context.gitlab has project_path && context.gitlab.project_path == "acme/orders"')}
      @id("b") permit (principal, action, resource) when {
        context.issuer == "buildkite" && context has buildkite && context.buildkite has pipeline_slug && context.buildkite.pipeline_slug == "orders" };`,
    good: `${bare('context.issuer == "gitlab" && context has gitlab && context.gitlab.project_id == "20"')}
      @id("b") permit (principal, action, resource) when {
        context.issuer == "buildkite" && context has buildkite && context.buildkite.organization_id == "o" && context.buildkite.pipeline_id == "p" };`,
    says: /a permits everybody[\s\S]*b permits everybody/,
  },
  {
    why: 'P8 a project of CircleCI without the repository its code came from: builds of forks bear the same id',
    bad: bare(CIRCLECI),
    good: bare(`${CIRCLECI} && context.circleci has vcs_origin && context.circleci.vcs_origin == "github.com/acme/orders"`),
    says: /forks included: add context\.circleci\.vcs_origin/,
  },
  {
    why: 'P8 the same project, named as the principal',
    bad: `@id("a") permit (principal == Workload::"circleci:org_id=0a&project_id=0b", action, resource) when { context.issuer == "circleci" };`,
    good: bare(`${CIRCLECI} && !(context.circleci has vcs_origin)`),
    says: /forks included/,
  },
  {
    why: 'P8 a truth of GitLab that is written as no token writes it',
    bad: bare('context.issuer == "gitlab" && context has gitlab && context.gitlab.project_id == "20" && context.gitlab.ref_type == "Branch"'),
    good: bare('context.issuer == "gitlab" && context has gitlab && context.gitlab.project_id == "20" && context.gitlab.ref_type == "branch"'),
    says: /ref_type as "Branch", which there is not/,
  },
  {
    why: 'T63 a capability that there is not, by one letter',
    bad: '@id("a") forbid (principal, action, resource == Capability::"db/order-ro");',
    good: '@id("a") forbid (principal, action, resource == Capability::"db/orders-ro");',
    says: /"db\/order-ro", which the configuration does not have; did you mean "db\/orders-ro"\?/,
  },
  {
    why: 'T63 a capability in another case, inside a condition',
    bad: forbid('a', 'resource == Capability::"DB/orders-ro"'),
    good: forbid('a', 'resource == Capability::"db/orders-ro"'),
    says: /did you mean "db\/orders-ro"/,
  },
  {
    why: 'an issuer that there is not',
    bad: bare('context.issuer == "githb" && context has github && context.github.repository_id == "1"'),
    good: permit('a'),
    says: /"githb", which there is not; did you mean "github"\?/,
  },
  {
    why: 'T60 an issuer with a look-alike letter',
    bad: forbid('a', 'context.issuer == "g\u0456thub"'),
    good: forbid('a', 'context.issuer == "github"'),
    says: /which there is not; did you mean "github"/,
  },
  {
    why: 'T66 a class of intent that there is not, which in a forbid would let pass',
    bad: forbid('a', 'context.capability.intent == "destructiv"'),
    good: forbid('a', 'context.capability.intent == "destructive"'),
    says: /did you mean "destructive"/,
  },
  {
    why: 'T66 an unknown member of a set',
    bad: forbid('a', '["high", "hihg"].contains(context.capability.sensitivity)'),
    good: forbid('a', '["high", "low"].contains(context.capability.sensitivity)'),
    says: /did you mean "high"/,
  },
  {
    why: 'an audience that no capability has',
    bad: forbid('a', 'context.capability has audience && context.capability.audience == "legcy"'),
    good: forbid('a', 'context.capability has audience && context.capability.audience == "legacy"'),
    says: /did you mean "legacy"/,
  },
  {
    why: 'a fact that there is not',
    bad: forbid('a', 'context.isuer == "github"'),
    good: forbid('a', 'context.issuer == "github"'),
    says: /attribute `isuer`.*did you mean `issuer`/,
  },
  {
    why: 'a guard for a fact that there is not, which would let pass',
    bad: forbid('a', '(context has githb && context.proof) || context.depth > 3'),
    good: forbid('a', '(context has github && context.proof) || context.depth > 3'),
    says: /context\.githb, which is no fact/,
  },
  {
    why: 'an optional fact without its guard',
    bad: forbid('a', 'context.github.ref == "x"'),
    good: forbid('a', 'context has github && context.github.ref == "x"'),
    says: /unable to guarantee safety/,
  },
  {
    why: 'a text compared with a number',
    bad: forbid('a', 'context.ttl == "300"'),
    good: forbid('a', 'context.ttl > 300'),
    says: /not.*(compatible|comparable|subtype|equal)|types/i,
  },
  {
    why: 'arithmetic, which overflows where the validator does not look',
    bad: forbid('a', 'context.ttl * 9223372036854775807 > 1'),
    good: forbid('a', 'context.ttl > 1'),
    says: /computes a number/,
  },
  { why: 'an extension function', bad: forbid('a', 'ip("10.0.0.1").isLoopback()'), good: forbid('a', 'context.depth > 1'), says: /not available here/ },
  {
    why: 'a policy that can never apply',
    bad: forbid('a', 'context.proof && !context.proof && false'),
    good: forbid('a', '!context.proof'),
    says: /impossible/,
  },
  {
    why: 'a permit that gives less to who asks for less time',
    bad: permit('a', 'context.ttl >= 600'),
    good: permit('a', 'context.ttl <= 600'),
    says: /asks for less time/,
  },
  {
    why: 'a forbid that strikes who asks for less time',
    bad: forbid('a', 'context.ttl < 600'),
    good: forbid('a', 'context.ttl > 600'),
    says: /asks for less time/,
  },
  { why: 'an exact time', bad: permit('a', 'context.ttl == 600'), good: permit('a', '!(context.ttl > 600)'), says: /asks for less time/ },
  {
    why: 'T60 invisible characters in a text',
    bad: forbid('a', 'context.purpose == "dep\u200bloy"'),
    good: forbid('a', 'context.purpose == "deploy"'),
    says: /invisible/,
  },
  {
    why: 'T60 decomposed letters in a text',
    bad: forbid('a', 'context.purpose == "cafe\u0301"'),
    good: forbid('a', 'context.purpose == "caf\u00e9"'),
    says: /decomposed/,
  },
  {
    why: 'an annotation that means nothing',
    bad: permit('a', '', '@max-ttl("5m")'.replace('-', '_').replace('ttl', 'tll')),
    good: permit('a', '', '@max_ttl("5m")'),
    says: /@max_tll, which means nothing here; did you mean "max_ttl"/,
  },
  { why: 'a time that is none', bad: permit('a', '', '@max_ttl("15 minutes")'), good: permit('a', '', '@max_ttl("15m")'), says: /@max_ttl that is not a time/ },
  { why: 'a time too short to use', bad: permit('a', '', '@max_ttl("4")'), good: permit('a', '', '@max_ttl("5")'), says: /@max_ttl that is not a time/ },
  {
    why: 'an obligation that says no',
    bad: permit('a', '', '@require_proof("false")'),
    good: permit('a', '', '@require_proof("true")'),
    says: /@require_proof that is not "true"/,
  },
  {
    why: 'an obligation on a forbid',
    bad: '@id("a") @max_ttl("60") forbid (principal, action, resource) when { context.depth > 1 };',
    good: forbid('a', 'context.depth > 1'),
    says: /is a forbid/,
  },
  { why: 'a policy without an id', bad: `permit (principal, action, resource) when { ${GITHUB} };`, good: permit('a'), says: /policy 1 needs an @id/ },
  { why: 'an id used twice', bad: permit('a') + permit('a'), good: permit('a') + permit('b'), says: /an id that a policy in test\.cedar has too/ },
  { why: 'a template', bad: '@id("a") permit (principal == ?principal, action, resource);', good: permit('a'), says: /template/ },
  {
    why: 'another action',
    bad: '@id("a") forbid (principal, action == Action::"isue", resource);',
    good: '@id("a") forbid (principal, action == Action::"issue", resource);',
    says: /Action::"isue"/,
  },
  { why: 'a syntax error, with its line', bad: `// one\n${permit('a')}permit (principal;`, good: permit('a'), says: /test\.cedar:3: / },
  {
    why: 'forty-nine brackets too many',
    bad: forbid('a', `${'!('.repeat(50)}context.proof${')'.repeat(50)}`),
    good: forbid('a', `${'!('.repeat(40)}context.proof${')'.repeat(40)}`),
    says: /nested/,
  },
]

describe('refused at load, beside what is not', () => {
  for (const { why, bad, says } of CASES) {
    test(why, async () => {
      expect((await refusal(bad)).message).toMatch(says)
    })
  }

  test('twins: what differs from each of these only in the fault is loaded, all of it together', async () => {
    const renamed = CASES.map(({ good }, i) => good.replaceAll(/@id\("([a-z]+)"\)/g, (_, id) => `@id("${id}-${i}")`))
    await expect(engineOf(renamed.join('\n'))).resolves.toBeDefined()
  })

  test('everything that is wrong is said at once, by file and id', async () => {
    const dir = await policyDir({ 'a.cedar': forbid('one', 'context.issuer == "nobody"'), 'b.cedar': permit('two', 'context.ttl > 5') + permit('one') })
    const error = await engineAt(dir).catch((e: unknown) => e as CurfewError)
    const message = (error as CurfewError).message
    for (const part of ['a.cedar: one names the trust issuer "nobody"', 'b.cedar: two grants less', 'b.cedar: one has an id that a policy in a.cedar has too'])
      expect(message).toContain(part)
    expect((error as CurfewError).facts.field).toBe('policies.a.cedar.one')
  })

  test('a directory without policies, without a schema, or that is not there', async () => {
    expect((await engineAt(await policyDir({})).catch((e: CurfewError) => e)) as CurfewError).toMatchObject({
      code: 'malformed',
      facts: { field: 'policies.dir' },
    })
    const dir = await policyDir({ 'a.cedar': permit('a') })
    await rm(join(dir, 'schema.cedarschema'))
    await expect(engineAt(dir)).rejects.toMatchObject({ code: 'malformed' })
    await expect(engineAt(join(dir, 'nowhere'))).rejects.toMatchObject({ code: 'malformed' })
  })

  test('a schema that does not fit the facts', async () => {
    const dir = await policyDir({ 'a.cedar': permit('a') })
    const house = await engineAt(dir)
    await house.write(
      'schema.cedarschema',
      'entity Workload; entity Capability; type OidcClaims = {}; action "issue" appliesTo { principal: Workload, resource: Capability, context: { issuer: String } };',
    )
    await expect(house.policy.reload()).rejects.toMatchObject({ code: 'malformed', facts: { field: 'policies.schema.cedarschema' } })
    expect(house.policy.decide(request()).allowed).toBe(true)
  })

  test('a claim whose name Cedar would read as an entity', async () => {
    const load = (genericClaims: string[]) =>
      cedarPolicy({ dir: SHIPPED, capabilities: CAPABILITIES, issuers: ISSUERS, genericClaims, log: { error: () => {}, info: () => {} } })
    for (const name of ['__entity', '__extn', '__expr', '__proto__']) await expect(load([name])).rejects.toMatchObject({ code: 'malformed' })
    await expect(load(['entity'])).resolves.toBeDefined()
  })
})

describe('reload', () => {
  test('takes the new set, its digest and its answers, and none of the old', async () => {
    const house = await engineOf(permit('a'))
    const before = house.policy.digest
    expect(house.policy.decide(request())).toMatchObject({ allowed: true, digest: before })
    await house.write('test.cedar', permit('a', 'context.github.ref == "refs/heads/other"'))
    const after = await house.policy.reload()
    expect(after).not.toBe(before)
    expect(house.policy.digest).toBe(after)
    expect(house.policy.decide(request())).toMatchObject({ allowed: false, digest: after })
    await house.write('test.cedar', permit('a'))
    expect(await house.policy.reload()).toBe(before)
    expect(house.policy.decide(request()).allowed).toBe(true)
  })

  test('the digest does not depend on line ends', async () => {
    const unix = await engineOf(`// one\n${permit('a')}`)
    const windows = await engineOf(`// one\r\n${permit('a').replaceAll('\n', '\r\n')}`)
    expect(windows.policy.digest).toBe(unix.policy.digest)
  })

  const broken: Readonly<Record<string, string>> = {
    'does not parse': 'permit (',
    'does not validate': permit('a', 'context.nothing == 1'),
    'overruns the stack of the wasm that parses it': forbid('a', `${'('.repeat(20_000)}context.proof${')'.repeat(20_000)}`),
    'overruns it with operators': forbid('a', Array.from({ length: 5_000 }, () => 'context.proof').join(' && ')),
  }
  for (const [how, text] of Object.entries(broken)) {
    test(`a file that ${how} changes nothing, and the next good one is taken`, async () => {
      const house = await engineOf(permit('a'))
      const before = house.policy.digest
      await house.write('zz.cedar', text)
      await expect(house.policy.reload()).rejects.toMatchObject({ code: 'malformed', facts: { reason: 'policies_refused' } })
      expect(house.policy.digest).toBe(before)
      expect(house.policy.decide(request({ evidenceAge: 11 }))).toMatchObject({ allowed: true, digest: before })
      await house.write('zz.cedar', forbid('zz', 'context.depth > 3'))
      await house.policy.reload()
      expect(house.policy.decide(request({ depth: 4 }))).toMatchObject({ allowed: false, policies: ['zz'] })
    })
  }

  test('of several at once the last asked for wins, and a failed one does not stop the next', async () => {
    const house = await engineOf(permit('a'))
    await house.write('test.cedar', 'permit (')
    const failing = house.policy.reload()
    await expect(failing).rejects.toThrow()
    await house.write('test.cedar', permit('b'))
    await Promise.all([house.policy.reload(), house.policy.reload(), house.policy.reload()])
    expect(house.policy.decide(request()).policies).toEqual(['b'])
  })
})
