/** Owns what a token request is for: the one resource server that it names (RFC 8707), and the one capability there. */
import type { Audience, Capability } from '../domain/capability.js'
import { CurfewError } from '../domain/errors.js'
import { audienceOf, capabilityNamed } from './authorize.js'
import type { BrokerDeps } from './deps.js'

/** As a request names it. */
export interface TargetAsk {
  /** `resource`: the URI of a registered server. */
  readonly resources: readonly string[]
  /** `audience` (RFC 8693 section 2.1): its configured name, or its URI. */
  readonly audiences: readonly string[]
  /** `locations` of a task object, by their URI (RFC 9396 section 2.2). */
  readonly locations: readonly string[]
  /** Null: no `scope` was sent. */
  readonly scopes: readonly string[] | null
  /** `actions` of a task object: the same by another name. */
  readonly actions: readonly string[] | null
}

/** The path of our own API, which the metadata of RFC 9728 names as a resource of its own. */
const OWN_API = '/v1'

/** Our own API, whose access token is the task token. */
export const ourselves = Symbol('the API of this broker')

/** Null: none was named. A token has one audience (RFC 9068 section 5), so that two servers are one too many. */
export function targetOf(deps: BrokerDeps, ask: TargetAsk): Audience | typeof ourselves | null {
  const found = new Set<Audience | typeof ourselves>()
  const look = (names: readonly string[], field: string, isNamed: (audience: Audience, name: string) => boolean) => {
    for (const name of names) {
      const isOwn = name === deps.serverUrl || name === deps.serverUrl + OWN_API
      const audience = isOwn ? ourselves : [...deps.audiences.values()].find(a => isNamed(a, name))
      if (audience === undefined) throw new CurfewError('target_unknown', 'no such resource server is registered', { reason: 'resource_unknown', field })
      found.add(audience)
      if (found.size > 1) throw new CurfewError('target_unknown', 'a token is for one resource server', { reason: 'one_target', field })
    }
  }
  look(ask.resources, 'resource', (a, name) => a.uri === name)
  look(ask.audiences, 'audience', (a, name) => a.uri === name || a.name === name)
  look(ask.locations, 'authorization_details.0.locations', (a, name) => a.uri === name)
  return [...found][0] ?? null
}

/**
 * Exactly one of `names` is for that server; without names, of all that there are. `scope` must be, as a set, all that the capability
 * gives: a token has the scopes of its capability, so that fewer would be broadened and more be promised (docs/http-api.md).
 */
export function capabilityAt(deps: BrokerDeps, target: Audience, names: readonly string[] | null, { scopes, actions }: TargetAsk): Capability {
  const known = names?.map((name, i) => capabilityNamed(deps, name, `authorization_details.0.capabilities.${i}`)) ?? [...deps.capabilities.values()]
  const there = known.filter(c => audienceOf(deps, c) === target)
  // Without names the scopes choose; none sent is no scope at all.
  const asked = [scopes ?? (names === null ? [] : null), actions].flatMap(s => (s === null ? [] : [new Set(s)]))
  const fitting = there.filter(c => asked.every(s => isSame(new Set(c.scopes), s)))
  const [capability, ...others] = fitting
  if (capability && others.length === 0) return capability
  if (asked.length > 0 && there.length > 0) {
    throw new CurfewError('capability_unknown', 'exactly one capability of that resource server must give these scopes, and no other', {
      reason: others.length > 0 ? 'scope_ambiguous' : 'scope_unknown',
      field: scopes === null && actions !== null ? 'authorization_details.0.actions' : 'scope',
      next: 'name the capability in authorization_details',
    })
  }
  throw new CurfewError('target_unknown', 'exactly one of the capabilities must be for that resource server', {
    reason: 'resource_ambiguous',
    field: 'resource',
  })
}

const isSame = (a: ReadonlySet<string>, b: ReadonlySet<string>) => a.size === b.size && [...a].every(x => b.has(x))
