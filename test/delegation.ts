/** Owns a house with several workloads for tests of delegation: repositories 1 to 9, a registered agent, and the acts of handing on and of opening below. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Response } from 'supertest'
import { reloadPolicies } from '../src/serve.js'
import { type Caller, type Held, ID_TOKEN } from './caller.js'
import { type House, makeHouse, SERVER } from './house.js'

export const JWT = 'urn:ietf:params:oauth:token-type:jwt'
export const RO = 'demo/orders-ro'
export const DB = 'demo/orders-db'
export const AGENT = 'agents:agent=reporter'
export const identityOf = (repository: number) => `github:repository_id=${repository}`

const rule = (repository: number, capability: string, more = '') => `@id("r${repository}-${capability.slice(5)}")
permit (principal, action == Action::"issue", resource == Capability::"${capability}")
when {
  context.issuer == "github" && context has github && context.github.repository_id == "${repository}" &&
  context.github.event_name == "push" && context.github.ref == "refs/heads/main"${more}
};
`
const POLICIES = [1, 2, 3, 4, 5, 6, 7, 8, 9].map(n => [RO, DB, 'demo/orders-bearer'].map(c => rule(n, c)).join('')).join('')
/** Only below another task. */
const AGENT_RULE = `
@id("agents-below")
@max_ttl("60")
permit (principal, action == Action::"issue", resource == Capability::"${RO}")
when { context.issuer == "agents" && context has registered && context.registered.agent == "reporter" && context.depth > 0 };
`

export const delegationHouse = (): Promise<House> => makeHouse({ policies: POLICIES + AGENT_RULE })

/** Evidence of a push to main of one of the repositories. */
export const job = (house: House, repository: number, claims: Record<string, unknown> = {}): Promise<string> =>
  house.evidence({
    sub: `repo:acme/r${repository}:ref:refs/heads/main`,
    repository: `acme/r${repository}`,
    repository_id: String(repository),
    workflow_ref: `acme/r${repository}/.github/workflows/ci.yml@refs/heads/main`,
    job_workflow_ref: `acme/r${repository}/.github/workflows/ci.yml@refs/heads/main`,
    ...claims,
  })

export const openAs = async (house: House, who: Caller, repository: number, body: Record<string, unknown> = {}): Promise<Held> =>
  who.opened({ subject_token: await job(house, repository), ...body })

export const asksGrant = (parent: Caller, held: Held, body: Record<string, unknown>): Promise<Response> =>
  parent.as(held, 'post', `/v1/tasks/${held.task}/grants`, { capabilities: [RO], ...body })

export async function granted(parent: Caller, held: Held, body: Record<string, unknown>): Promise<string> {
  const answer = await asksGrant(parent, held, body)
  if (answer.status !== 201) throw new Error(`nothing was granted: ${answer.status} ${JSON.stringify(answer.body)}`)
  return answer.body.grant
}

/** @param evidence undefined: the grant alone. */
export const opensBelow = (child: Caller, grant: string, evidence?: string, body: Record<string, unknown> = {}): Promise<Response> =>
  child.open({ parent_grant: grant, ...body, ...(evidence === undefined ? { subject_token: undefined } : { subject_token: evidence }) })

/** A child of `held`, by another repository and another key. */
export async function childOf(house: House, parent: Caller, held: Held, child: Caller, repository: number, body: Record<string, unknown> = {}): Promise<Held> {
  const grant = await granted(parent, held, { to: { identity: identityOf(repository) } })
  const answer = await opensBelow(child, grant, await job(house, repository), body)
  if (answer.status !== 201) throw new Error(`the child was not opened: ${answer.status} ${JSON.stringify(answer.body)}`)
  return { task: answer.body.task.id, token: answer.body.token }
}

export const exchangesBelow = (child: Caller, grant: string, evidence: string | null, form: Record<string, string> = {}): Promise<Response> =>
  child.exchange({
    subject_token: grant,
    subject_token_type: JWT,
    ...(evidence === null ? {} : { actor_token: evidence, actor_token_type: ID_TOKEN }),
    authorization_details: JSON.stringify([{ type: `${SERVER}/rar/task/v1`, purpose: 'nightly report', capabilities: [RO] }]),
    ...form,
  })

/** Puts other rules in force; answers how to put the old ones back. */
export async function withRules(house: House, change: (rules: string) => string): Promise<() => Promise<void>> {
  const file = join(house.app.config.policies.dir, 'house.cedar')
  const before = readFileSync(file, 'utf8')
  const digest = house.app.deps.policy.digest
  writeFileSync(file, change(before))
  await reloadPolicies(house.app)
  if (house.app.deps.policy.digest === digest) throw new Error('the rules did not change')
  return async () => {
    writeFileSync(file, before)
    await reloadPolicies(house.app)
  }
}
