/** Owns what a selector in a body means, and which combinations mean nothing. */
import { CurfewError } from '../domain/errors.js'
import { byAttributes, type Selector } from '../domain/revocation.js'
import { QUARANTINABLE, type Where } from '../domain/where.js'
import type { GivenSelector } from './schemas.js'

const wrong = (message: string, field: string) => new CurfewError('malformed', message, { reason: 'selector_invalid', field: `selector.${field}` })

const ALONE = ['credential', 'task', 'key', 'all'] as const
/** These stand alone too, and among attributes narrow them. */
const EITHER = ['identity', 'issuer', 'capability'] as const

const TIMES = ['issued_before', 'issued_after'] as const
/** Who says "now" by a clock that is a little ahead of ours means now. Milliseconds. */
const CLOCKS_MS = 60_000

/** @param now a cut-off that lies ahead would refuse what nobody has issued yet: that is a quarantine's business. */
export function selectorOf(asked: GivenSelector, now: Date): Selector {
  const given = { ...asked }
  for (const name of TIMES) {
    const at = asked[name]
    if (at === undefined || at <= now) continue
    if (at.getTime() > now.getTime() + CLOCKS_MS) throw wrong('must not lie ahead', name)
    given[name] = now
  }
  const names = (Object.keys(given) as (keyof GivenSelector)[]).filter(name => given[name] !== undefined)
  const kinds = names.filter(name => !TIMES.some(time => time === name))
  if (given.issued_after && given.issued_before && given.issued_after > given.issued_before) throw wrong('must not lie behind issued_before', 'issued_after')

  const alone = ALONE.find(name => given[name] !== undefined)
  const [only] = kinds
  if (alone !== undefined && kinds.length > 1) throw wrong('stands alone', alone)
  if (kinds.length === 1 && (alone !== undefined || EITHER.some(name => name === only)) && given.issued_after === undefined) {
    if (only === 'credential' || only === 'task') {
      if (given.issued_before) throw wrong(`a ${only} has no cut-off`, 'issued_before')
      return { kind: only, key: given[only] } as Selector
    }
    const kind = only as 'identity' | 'issuer' | 'key' | 'capability' | 'all'
    return { kind, key: kind === 'all' ? '*' : given[kind], ...(given.issued_before ? { issuedBefore: given.issued_before } : {}) } as Selector
  }
  if (alone !== undefined) throw wrong('goes with issued_before only', alone)
  if (names.length === 0) throw new CurfewError('malformed', 'must name something', { reason: 'selector_invalid', field: 'selector' })
  return byAttributes(whereOf(given))
}

function whereOf(given: GivenSelector): Where {
  const where: Record<keyof Where, unknown> = {
    identity: given.identity,
    issuer: given.issuer,
    capability: given.capability,
    repositoryId: given.repository_id,
    workflowRef: given.workflow_ref,
    workflowSha: given.workflow_sha,
    runId: given.run_id,
    actor: given.actor,
    owner: given.owner,
    labels: given.label,
    audience: given.audience,
    engine: given.engine,
    issuedAfter: given.issued_after,
    issuedBefore: given.issued_before,
  }
  return Object.fromEntries(Object.entries(where).filter(([, value]) => value !== undefined))
}

const WIRE: Partial<Record<keyof Where, string>> = { labels: 'label', issuedAfter: 'issued_after', issuedBefore: 'issued_before' }

/** What new can be known by. @throws {CurfewError} `malformed` for what a workload writes itself and for the past. */
export function demandQuarantinable(selector: Selector): void {
  if (selector.kind !== 'where') {
    if ('issuedBefore' in selector && selector.issuedBefore) throw wrong('says nothing of what is new: leave it out', 'issued_before')
    return
  }
  for (const name of Object.keys(selector.where) as (keyof Where)[]) {
    if (!(QUARANTINABLE as readonly string[]).includes(name))
      throw wrong('cannot be quarantined; quarantine the identity or the capability', WIRE[name] ?? name)
  }
}
