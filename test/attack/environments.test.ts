/** Owns evidence of staging before capabilities of production (T54): no spelling of a name on either side leads from the one to the other, through any door that issues. */
import type { JWTPayload } from 'jose'
import type { Response } from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Caller, caller, type Held } from '../caller.js'
import { type House, makeHouse, ORDERS, SERVER } from '../house.js'

const STAGING = ['deploy/staging', 'deploy/prod-preview'] as const
const PRODUCTION = ['prod', 'prod-eu', 'deploy/prod', 'deploy/prod/eu'] as const
const scopeOf = (capability: string) => capability.replaceAll('/', ':')
const rule = (environment: string, capability: string) => `@id("${`${environment}-${capability}`.replaceAll('/', '-')}")
permit (principal, action == Action::"issue", resource == Capability::"${capability}")
when { context.issuer == "github" && context has github && context.github.repository_id == "456789" &&
  context.github has environment && context.github.environment == "${environment}" };
`
/** Each capability of production is of its own environment, so that a neighbour's is as wrong as staging. */
const ENVIRONMENT: Readonly<Record<string, string>> = { prod: 'prod', 'prod-eu': 'prod-eu', 'deploy/prod': 'prod', 'deploy/prod/eu': 'prod/eu' }

let house: House
let ci: Caller
let staging: Held

beforeAll(async () => {
  const all = [...STAGING, ...PRODUCTION]
  house = await makeHouse({
    policies: [...STAGING.map(c => rule('staging', c)), ...PRODUCTION.map(c => rule(ENVIRONMENT[c] as string, c))].join(''),
    capabilities: all.map(name => ({ name, summary: name, engine: 'jwt', audience: 'orders', scopes: [scopeOf(name)], intent: 'write' })),
  })
  ci = await caller(house)
  staging = await ci.opened({ subject_token: await evidence({ environment: 'staging' }), capabilities: ['deploy/staging'] })
})
afterAll(() => house?.close())

const evidence = (claims: JWTPayload) => house.evidence({ sub: 'repo:acme/orders:environment:staging', ...claims })
const details = (capabilities: readonly unknown[]) => JSON.stringify([{ type: `${SERVER}/rar/task/v1`, purpose: 'deploy', capabilities }])

const byTask = (token: string, capabilities: readonly string[]) => ci.open({ subject_token: token, capabilities })
const byToken = (token: string, capabilities: readonly string[]) =>
  ci.exchange({ subject_token: token, authorization_details: details(capabilities), ...(capabilities.length === 1 ? { resource: ORDERS } : {}) })
const byScope = (token: string, [capability = '']: readonly string[]) => ci.exchange({ subject_token: token, resource: ORDERS, scope: scopeOf(capability) })

/** What was issued, by its capability; a task that nothing was issued under is none. */
const issued = async () =>
  (await house.app.store.credentials.list({ limit: 500 })).map(c => c.capability).filter(c => (PRODUCTION as readonly string[]).includes(c))
const isRefused = (answer: Response) => ({
  status: answer.status >= 400 && answer.status < 500,
  token: answer.body.access_token ?? answer.body.token ?? answer.body.secret,
})

async function refusedEverywhere(claims: JWTPayload, capabilities: readonly string[], alsoByScope: boolean): Promise<string> {
  const before = await issued()
  const answers = [await byTask(await evidence(claims), capabilities), await byToken(await evidence(claims), capabilities)]
  if (alsoByScope) answers.push(await byScope(await evidence(claims), capabilities))
  // The task of staging is open all the while, and asks with the same evidence for what it does not have.
  if (capabilities.length === 1) answers.push(await ci.credential(staging, capabilities[0] as string, { subject_token: await evidence(claims) }))
  for (const answer of answers) expect([JSON.stringify(answer.body), isRefused(answer)]).toEqual([expect.any(String), { status: true, token: undefined }])
  expect(await issued()).toEqual(before)
  return answers[0]?.body.code
}

describe('T54 evidence of staging before a capability of production', () => {
  it.each([
    ...PRODUCTION,
    'PROD',
    'Deploy/Prod',
    'deploy/prod/',
    '/deploy/prod',
    'deploy//prod',
    'deploy/./prod',
    'deploy/staging/../prod',
    'deploy\\prod',
    'deploy%2Fprod',
    'deploy/pr%6Fd',
    'deploy/prod%00',
    'deploy/prod\u0000',
    'deploy/prod ',
    ' deploy/prod',
    'deploy/prod\n',
    'deploy/prod?x',
    'deploy/prod#x',
    'deploy/prod;x',
    'deploy/\u0440rod',
    'deploy/\uff50rod',
    'deploy/prod\u200d',
    'deploy/\u202edorp',
    'deploy\u2215prod',
    'deploy/*',
    'deploy/staging,deploy/prod',
    'deploy/staging deploy/prod',
    'deploy/prod-preview/../prod',
    'deploy/prod-',
  ])('%j is refused to a job of staging', async capability => {
    await refusedEverywhere({ environment: 'staging' }, [capability], true)
  })

  it('all or nothing: asked together with what staging may have it is refused, and nothing of both is issued', async () => {
    for (const capabilities of [
      ['deploy/staging', 'deploy/prod'],
      ['deploy/prod', 'deploy/staging'],
    ])
      await refusedEverywhere({ environment: 'staging' }, capabilities, false)
    expect((await house.app.store.credentials.list({ limit: 500 })).filter(c => c.state === 'active')).toEqual([])
  })

  const branch = 'refs/heads/x:environment:prod'
  it.each<[string, JWTPayload]>([
    ['no environment', { environment: undefined }],
    ...[
      'Prod',
      'PROD',
      'prod ',
      ' prod',
      'prod/',
      '/prod',
      'prod/x',
      'prod-eu',
      'production',
      'pro',
      'staging:prod',
      'staging/prod',
      'staging,prod',
      'prod%00',
      'pr%6Fd',
      'prod\u0000',
      'prod\n',
      '\u0440rod',
      '\uff50rod',
      'prod\u200d',
      '\u202edorp',
      'prod*',
      '*',
      '',
    ].map(environment => [`environment ${JSON.stringify(environment)}`, { environment }] as [string, JWTPayload]),
    ['an environment that is a list', { environment: ['prod'] }],
    ['an environment that is a list of both', { environment: ['staging', 'prod'] }],
    ['an environment that is an object', { environment: { name: 'prod' } }],
    ['an environment that is true', { environment: true }],
    [
      'no environment, and a claim that is spelled nearly so',
      { environment: undefined, Environment: 'prod', ENVIRONMENT: 'prod', 'environment ': 'prod', env: 'prod' },
    ],
    ['staging, and a claim that is spelled nearly so', { environment: 'staging', Environment: 'prod', deployment_environment: 'prod' }],
    ['no environment, and a subject that names one', { environment: undefined, sub: 'repo:acme/orders:environment:prod' }],
    ['staging, and a subject that names the other', { environment: 'staging', sub: 'repo:acme/orders:environment:prod' }],
    ['no environment, and a branch that is named like one', { environment: undefined, ref: branch, sub: `repo:acme/orders:ref:${branch}` }],
    ['staging, and a branch that is named like the other', { environment: 'staging', ref: branch, sub: `repo:acme/orders:ref:${branch}` }],
    ['staging of a repository that is named like it', { environment: 'staging', repository: 'acme/orders:environment:prod' }],
    [
      'staging, and a workflow that is named like it',
      { environment: 'staging', workflow_ref: 'acme/orders/.github/workflows/environment:prod.yml@refs/heads/main' },
    ],
  ])('%s: no capability of production', async (_name, claims) => {
    for (const capability of ['deploy/prod', 'prod']) await refusedEverywhere(claims, [capability], true)
  })

  it.each(PRODUCTION)('neighbours are strangers: the environment of another capability does not open %s', async capability => {
    const others = [...new Set(Object.values(ENVIRONMENT))].filter(e => e !== ENVIRONMENT[capability])
    for (const environment of others) expect(await refusedEverywhere({ environment }, [capability], true)).toBe('policy_denied')
  })

  it('the twin: each environment is served its own, through every door', async () => {
    for (const [capability, environment] of [...STAGING.map(c => [c, 'staging'] as const), ...PRODUCTION.map(c => [c, ENVIRONMENT[c] as string] as const)]) {
      const claims = { environment, sub: `repo:acme/orders:environment:${environment}` }
      const held = await ci.opened({ subject_token: await evidence(claims), capabilities: [capability] })
      expect((await ci.credential(held, capability)).body).toMatchObject({ credential: { capability, state: 'active' } })
      for (const answer of [await byToken(await evidence(claims), [capability]), await byScope(await evidence(claims), [capability])])
        expect([capability, answer.status, answer.body.scope]).toEqual([capability, 200, scopeOf(capability)])
    }
    expect(new Set(await issued())).toEqual(new Set(PRODUCTION))
  })
})
