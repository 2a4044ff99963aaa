/** Owns loading policies: the whole directory is read, judged and made ready to decide, or refused with everything that is wrong. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Capability } from '../domain/capability.js'
import type { Obligations } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import { namedId, type PolicyId } from '../domain/ids.js'
import { type Facts, sampleFacts } from './context.js'
import type { PolicyEst } from './est.js'
import { conditionPolicies, type Rule, ruleOf } from './explain.js'
import { type Need, needOf, shown } from './need.js'
import { capabilitiesOf, judge, type Known } from './rules.js'
import { factsKnownTo, type PolicySchema, withClaims } from './schema.js'
import { ACTION, type Cedar, type Context, callOf, freshCedar, type PolicyJson, type SchemaJson } from './wasm.js'

export interface PolicySources {
  /** Every `*.cedar` in it, and `schema.cedarschema`. */
  readonly dir: string
  readonly capabilities: readonly Capability[]
  /** Names of the configured trust issuers. */
  readonly issuers: readonly string[]
  /** What `generic` issuers put into attestations: each becomes an optional text in `context.oidc.claims`. Sorted, no repeats. */
  readonly genericClaims: readonly string[]
}

interface SourceFile {
  readonly name: string
  readonly text: string
}

/** Policies of one capability, under the names by which the instance knows them. */
export interface Slice {
  readonly need: Need
  readonly rules: readonly Rule[]
  readonly decide: string
  readonly conditions: string
  readonly forbids: string
}

export interface PolicySet {
  readonly cedar: Cedar
  readonly digest: PolicyId
  readonly obligations: ReadonlyMap<string, Obligations>
  readonly slices: ReadonlyMap<string, Slice>
}

const SCHEMA_FILE = 'schema.cedarschema'
const NAME = /^[a-z][a-z0-9-]{0,62}$/
const MAX_FILE_BYTES = 1_048_576

/** @throws CurfewError(malformed), reason `policies_refused`, whose message lists everything that is wrong with the set. */
export async function loadPolicies(sources: PolicySources): Promise<PolicySet> {
  return compile(await readSources(sources.dir), sources)
}

function refused(problems: readonly string[], field: string, cause?: unknown): CurfewError {
  return new CurfewError(
    'malformed',
    `the policies cannot be loaded:\n${problems.map(p => `  ${p}`).join('\n')}`,
    { reason: 'policies_refused', field },
    { cause },
  )
}

async function readSources(dir: string): Promise<readonly SourceFile[]> {
  const read = async (name: string): Promise<SourceFile> => {
    const bytes = await readFile(join(dir, name))
    if (bytes.byteLength > MAX_FILE_BYTES) throw refused([`${name} is larger than ${MAX_FILE_BYTES} bytes`], `policies.${name}`)
    // Line ends are the checkout's business: the digest must not depend on them.
    return { name, text: new TextDecoder('utf-8', { fatal: true }).decode(bytes).replaceAll('\r\n', '\n') }
  }
  try {
    const names = (await readdir(dir)).filter(name => name.endsWith('.cedar')).sort()
    if (names.length === 0) throw refused(['there is no *.cedar file in the directory'], 'policies.dir')
    return await Promise.all([SCHEMA_FILE, ...names].map(read))
  } catch (error) {
    if (error instanceof CurfewError) throw error
    throw refused([`the directory cannot be read, or a file in it is missing or not UTF-8 (it needs ${SCHEMA_FILE} and *.cedar)`], 'policies.dir', error)
  }
}

function compile([schemaFile, ...files]: readonly SourceFile[], { capabilities, issuers, genericClaims: claims }: PolicySources): PolicySet {
  const cedar = freshCedar()
  try {
    const schema = readSchema(cedar, (schemaFile as SourceFile).text, claims)
    const known: Known = {
      capabilities: new Map(capabilities.map(c => [c.name, c])),
      issuers: new Set(issuers),
      isFact: factsKnownTo(schema, ACTION.id),
    }
    const policies = files.flatMap(file => readPolicies(cedar, file))
    const obligations = judgeAll(cedar, policies, schema, known)
    const slices = sliceAll(cedar, policies, capabilities, sampleFacts(claims))
    const digest = namedId('policy', ...[schemaFile as SourceFile, ...files].flatMap(f => [f.name, f.text]), ...claims)
    return { cedar, digest, obligations, slices }
  } catch (error) {
    if (error instanceof CurfewError) throw error
    throw refused(['a policy is nested too deeply for Cedar, or not a policy at all'], 'policies.dir', error)
  }
}

function readSchema(cedar: Cedar, text: string, claims: readonly string[]): PolicySchema {
  const parsed = cedar.schemaToJson(text)
  if (parsed.type === 'failure')
    throw refused(
      parsed.errors.map(e => `${SCHEMA_FILE}${place(text, e)}: ${e.message}`),
      `policies.${SCHEMA_FILE}`,
    )
  const schema = withClaims(parsed.json as PolicySchema, claims)
  for (const context of sampleFacts(claims)) {
    const answer = cedar.checkParseContext({ context: context as Context, schema: schema as SchemaJson<string>, action: ACTION })
    if (answer.type === 'failure')
      throw refused(
        answer.errors.map(e => `${SCHEMA_FILE} does not fit the facts that policy is shown: ${e.message}`),
        `policies.${SCHEMA_FILE}`,
      )
  }
  return schema
}

interface Policy {
  readonly file: string
  readonly id: string
  readonly text: string
  readonly est: PolicyEst
}

function readPolicies(cedar: Cedar, file: SourceFile): readonly Policy[] {
  const field = `policies.${file.name}`
  const parts = cedar.policySetTextToParts(file.text)
  if (parts.type === 'failure')
    throw refused(
      parts.errors.map(e => `${file.name}${place(file.text, e)}: ${e.message}`),
      field,
    )
  if (parts.policy_templates.length > 0) throw refused([`${file.name}: has a template (?principal, ?resource), which nothing here would fill`], field)
  return parts.policies.map((text, i) => {
    const json = cedar.policyToJson(text)
    if (json.type === 'failure')
      throw refused(
        json.errors.map(e => `${file.name}: ${e.message}`),
        field,
      )
    const est = json.json as unknown as PolicyEst
    const id = est.annotations?.id ?? ''
    if (!NAME.test(id)) throw refused([`${file.name}: policy ${i + 1} needs an @id("…") of lower-case letters, digits and -`], field)
    return { file: file.name, id, text, est }
  })
}

/** All that is wrong, at once: whoever mends one policy should not meet the next fault only at the next reload. */
function judgeAll(cedar: Cedar, policies: readonly Policy[], schema: PolicySchema, known: Known): ReadonlyMap<string, Obligations> {
  const problems: { readonly policy: Policy; readonly problem: string }[] = []
  const byId = new Map<string, Policy>()
  const obligations = new Map<string, Obligations>()
  for (const policy of policies) {
    const other = byId.get(policy.id)
    if (other) problems.push({ policy, problem: `has an id that a policy in ${other.file} has too` })
    byId.set(policy.id, policy)
    const judged = judge(policy.est, known)
    obligations.set(policy.id, judged.obligations)
    problems.push(...judged.problems.map(problem => ({ policy, problem })))
  }
  const staticPolicies = Object.fromEntries(policies.map(p => [p.id, p.text]))
  const answer = cedar.validate({ schema: schema as SchemaJson<string>, policies: { staticPolicies }, validationSettings: { mode: 'strict' } })
  if (answer.type === 'failure')
    throw refused(
      answer.errors.map(e => e.message),
      'policies.dir',
    )
  // A warning is a policy that can never apply, or one that reads otherwise than it looks.
  for (const { policyId, error } of [...answer.validationErrors, ...answer.validationWarnings]) {
    const policy = byId.get(policyId)
    if (policy) problems.push({ policy, problem: `${error.message.replace(/^for policy `[^`]*`, /, '')}${error.help ? ` (${error.help})` : ''}` })
  }
  const [first] = problems
  if (first) {
    throw refused(
      problems.map(p => `${p.policy.file}: ${p.policy.id} ${p.problem}`),
      `policies.${first.policy.file}.${first.policy.id}`,
    )
  }
  return obligations
}

function sliceAll(cedar: Cedar, policies: readonly Policy[], capabilities: readonly Capability[], samples: readonly Facts[]): ReadonlyMap<string, Slice> {
  const judged = policies.map(policy => ({ policy, only: capabilitiesOf(policy.est), rule: ruleOf(policy.id, policy.est) }))
  const made = new Map<string, Slice>()
  const slices = new Map<string, Slice>()
  for (const { name } of capabilities) {
    const members = judged.filter(({ only }) => only === null || only.includes(name))
    const key = members.map(m => m.policy.id).join()
    let slice = made.get(key)
    if (!slice) {
      slice = {
        need: needOf(members.map(m => m.policy.est)),
        rules: members.map(m => m.rule),
        decide: `decide ${key}`,
        conditions: `conditions ${key}`,
        forbids: `forbids ${key}`,
      }
      const texts = (of: typeof members) => Object.fromEntries(of.map(m => [m.policy.id, m.policy.text]))
      prepare(cedar, slice.decide, texts(members))
      prepare(cedar, slice.conditions, conditionPolicies(slice.rules) as Record<string, PolicyJson>)
      prepare(cedar, slice.forbids, texts(members.filter(m => m.rule.effect === 'forbid')))
      made.set(key, slice)
    }
    // What can be evaluated here can be evaluated there: an instance that breaks, breaks now.
    for (const facts of samples) {
      const answer = cedar.statefulIsAuthorized(callOf(slice.decide, 'issuer:sub=x', name, shown(facts, slice.need)))
      if (answer.type === 'failure' || answer.response.diagnostics.errors.length > 0)
        throw refused([`the policies of ${name} fail when they are evaluated`], 'policies.dir')
    }
    slices.set(name, slice)
  }
  return slices
}

function prepare(cedar: Cedar, name: string, staticPolicies: Record<string, string | PolicyJson>): void {
  const answer = cedar.preparsePolicySet(name, { staticPolicies })
  if (answer.type === 'failure')
    throw refused(
      answer.errors.map(e => e.message),
      'policies.dir',
    )
}

function place(text: string, error: { readonly sourceLocations?: readonly { readonly start: number }[] }): string {
  const start = error.sourceLocations?.[0]?.start
  // Cedar counts bytes.
  return start === undefined ? '' : `:${Buffer.from(text).subarray(0, start).toString().split('\n').length}`
}
