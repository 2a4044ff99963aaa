/** Owns the facts that policy decides on: from a request to Cedar's context, byte for byte, and from nothing else. */
import type { PolicyRequest } from '../domain/decision.js'
import { STATED, type Stated } from '../domain/provider.js'

export type Fact = string | number | boolean | readonly string[] | { readonly [name: string]: Fact }
export type Facts = Readonly<Record<string, Fact>>

export const PROFILES = ['github', 'gitlab', 'buildkite', 'circleci', 'kubernetes', 'spiffe', 'registered', 'generic'] as const
export const INTENTS = ['read', 'write', 'destructive'] as const
export const SENSITIVITIES = ['low', 'medium', 'high'] as const

/** Names that Cedar's JSON gives a meaning of its own, or JavaScript does: a claim so called could forge an entity or a prototype. */
const RESERVED = new Set(['__entity', '__extn', '__expr', '__proto__'])

export const isReservedName = (name: string): boolean => RESERVED.has(name)

/**
 * Throws TypeError, naming the fact and never its value, when a fact is missing, of the wrong type or of an unknown class (T66): the
 * caller denies. Text goes in as it came: no trimming, folding or normalisation (T60).
 * @param genericClaims the claims of `generic` issuers that the schema was made with; others are not shown to policy.
 */
export function factsOf(request: PolicyRequest, genericClaims: readonly string[]): Facts {
  const { attestation, capability, audience, task } = request
  const profile = oneOf('profile', attestation.profile, PROFILES)
  return {
    issuer: text('issuer', attestation.issuer),
    profile,
    strength: whole('strength', attestation.strength, 1, 3),
    evidence_age: whole('evidence_age', request.evidenceAgeSeconds, 0),
    proof: request.proof === true,
    ttl: whole('ttl', request.ttlSeconds, 1),
    purpose: text('purpose', task.purpose),
    depth: whole('depth', task.depth, 0),
    labels: pairs('labels', Object.entries(task.labels)),
    // Only the owner that the configuration names: a task may bring one of its own choice.
    ...(attestation.owner === null ? {} : { owner: text('owner', attestation.owner) }),
    capability: {
      intent: oneOf('capability.intent', capability.intent, INTENTS),
      sensitivity: oneOf('capability.sensitivity', capability.sensitivity, SENSITIVITIES),
      ...(audience ? { audience: text('capability.audience', audience.name) } : {}),
    },
    ...byProfile(profile, attestation.attributes, genericClaims),
  }
}

function byProfile(profile: (typeof PROFILES)[number], attributes: Readonly<Record<string, unknown>>, genericClaims: readonly string[]): Facts {
  switch (profile) {
    case 'github': {
      const github = texts(profile, attributes)
      return { github: { ...github, ref_prefixes: prefixes(github.ref as string) } }
    }
    case 'gitlab': {
      const gitlab = texts(profile, attributes)
      // Its branches and tags have one name space each, but only `ref_path` says which.
      const path = gitlab.ref_path ?? `refs/${gitlab.ref_type === 'tag' ? 'tags' : 'heads'}/${gitlab.ref}`
      return { gitlab: { ...gitlab, ref_path: path, ref_path_prefixes: prefixes(path as string) } }
    }
    case 'buildkite': {
      const buildkite = texts(profile, attributes)
      return { buildkite: { ...buildkite, build_branch_prefixes: prefixes(buildkite.build_branch as string) } }
    }
    case 'circleci': {
      const circleci = texts(profile, attributes)
      return { circleci: { ...circleci, ...(typeof circleci.vcs_ref === 'string' ? { vcs_ref_prefixes: prefixes(circleci.vcs_ref) } : {}) } }
    }
    case 'kubernetes':
      return { kubernetes: texts(profile, attributes) }
    case 'spiffe': {
      const spiffe = texts(profile, attributes)
      return { spiffe: { ...spiffe, path_prefixes: prefixes(spiffe.path as string) } }
    }
    case 'registered': {
      const labels = Object.entries(attributes).filter(([name]) => name.startsWith('label_'))
      return {
        registered: {
          ...texts(profile, attributes),
          labels: pairs(
            'registered.labels',
            labels.map(([name, value]) => [name.slice('label_'.length), value]),
          ),
        },
      }
    }
    case 'generic': {
      const claims = genericClaims.filter(name => Object.hasOwn(attributes, name)).map(name => [name, text(`oidc.claims.${name}`, attributes[name])] as const)
      return { oidc: { claims: Object.fromEntries(claims) } }
    }
    default:
      return profile satisfies never
  }
}

function texts(profile: keyof typeof STATED, attributes: Readonly<Record<string, unknown>>): Record<string, Fact> {
  const { always, maybe, sets = [] }: Stated = STATED[profile]
  const facts: Record<string, Fact> = {}
  for (const name of always) facts[name] = text(`${profile}.${name}`, attributes[name])
  for (const name of maybe) if (Object.hasOwn(attributes, name)) facts[name] = text(`${profile}.${name}`, attributes[name])
  for (const name of sets) if (Object.hasOwn(attributes, name)) facts[name] = set(`${profile}.${name}`, attributes[name])
  return facts
}

function set(fact: string, value: unknown): readonly string[] {
  if (!Array.isArray(value)) throw new TypeError(`the fact ${fact} is not a set`)
  return value.map(v => text(fact, v))
}

/**
 * `/ci/orders` as `/ci` and `/ci/orders`; `refs/heads/main` as `refs`, `refs/heads` and the whole: equality with one of them is a
 * prefix match that ends at a segment, which Cedar's `like` cannot promise (P1: `*` crosses `/` there).
 */
function prefixes(path: string): readonly string[] {
  const found: string[] = []
  for (let at = path.indexOf('/', 1); at !== -1; at = path.indexOf('/', at + 1)) found.push(path.slice(0, at))
  return [...found, path]
}

function text(fact: string, value: unknown): string {
  if (typeof value !== 'string') throw new TypeError(`the fact ${fact} is ${value === undefined ? 'missing' : 'not text'}`)
  // Half a character (a lone surrogate) has no bytes: Cedar throws on it, a database stores something else.
  if (/\p{Surrogate}/u.test(value)) throw new TypeError(`the fact ${fact} is not well-formed text`)
  return value
}

function whole(fact: string, value: unknown, min: number, max = Number.MAX_SAFE_INTEGER): number {
  if (Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max) return value as number
  throw new TypeError(`the fact ${fact} is not a whole number from ${min}`)
}

function oneOf<const T extends string>(fact: string, value: unknown, known: readonly T[]): T {
  if (known.includes(value as T)) return value as T
  throw new TypeError(`the fact ${fact} is not one of ${known.join(', ')}`)
}

/** Sorted `key=value`: Cedar has no open records. A key with `=` could pass for another pair. */
function pairs(fact: string, entries: readonly (readonly [string, unknown])[]): readonly string[] {
  return entries
    .map(([key, value]) => {
      if (key.includes('=')) throw new TypeError(`a key of ${fact} contains =`)
      return `${key}=${text(fact, value)}`
    })
    .sort()
}

/** For every profile the least and the most that policy can be shown: what a schema must admit to be loaded. */
export function sampleFacts(genericClaims: readonly string[]): readonly Facts[] {
  const bare: PolicyRequest = {
    attestation: {
      issuer: 'issuer',
      issuerId: 'iss_' as PolicyRequest['attestation']['issuerId'],
      kind: 'oidc',
      profile: 'generic',
      identity: 'issuer:sub=x',
      identityId: 'wid_' as PolicyRequest['attestation']['identityId'],
      owner: null,
      attributes: {},
      strength: 1,
      evidenceAt: new Date(0),
      expiresAt: new Date(0),
      run: null,
      digest: '',
    },
    capability: {
      name: 'sample',
      summary: '',
      engine: 'memory',
      parameters: {},
      audience: null,
      scopes: [],
      ttlSeconds: 60,
      maxTtlSeconds: 60,
      maxEvidenceAgeSeconds: 60,
      sensitivity: 'low',
      intent: 'read',
      maxLive: 1,
      revocation: 'instant',
    },
    audience: null,
    task: { purpose: 'sample', labels: {}, owner: null, depth: 0 },
    ttlSeconds: 60,
    evidenceAgeSeconds: 0,
    proof: false,
  }
  const full = { name: 'sample', uri: 'https://sample.example', senderConstrained: true, alg: 'ES256', introspects: true } as const
  const filled = (names: readonly string[]) => Object.fromEntries(names.map(name => [name, '/x']))
  return PROFILES.flatMap(profile => {
    const known: Stated = profile === 'generic' ? { always: [], maybe: genericClaims } : STATED[profile]
    const sets = Object.fromEntries((known.sets ?? []).map(name => [name, ['/x']]))
    const least = { ...bare, attestation: { ...bare.attestation, profile, attributes: filled(known.always) } }
    const most = {
      ...least,
      audience: full,
      task: { ...bare.task, labels: { a: 'b' } },
      attestation: { ...least.attestation, owner: 'somebody', attributes: { ...filled([...known.always, ...known.maybe]), ...sets, label_a: 'b' } },
    }
    return [factsOf(least, genericClaims), factsOf(most, genericClaims)]
  })
}
