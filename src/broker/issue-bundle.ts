/** Verb: issue several credentials to the holder of a task, all of them or none. What fails names its part: `capabilities.1`, and its capability. */
import { CurfewError } from '../domain/errors.js'
import type { BrokerDeps } from './deps.js'
import { type AskTerms, grant, type PartAsk } from './grant.js'
import type { Holder } from './holder.js'
import { type Issued, make } from './make.js'

export interface BundleAsk extends AskTerms {
  readonly parts: readonly PartAsk[]
}

/** In the order in which they were asked for. */
export async function issueBundle(deps: BrokerDeps, holder: Holder, ask: BundleAsk, requestId: string | null, signal: AbortSignal): Promise<readonly Issued[]> {
  refuseRepeats(ask.parts)
  const { grants, options } = await grant(deps, holder, ask.parts, ask, requestId, signal)
  return make(deps, grants, options, signal)
}

/** Parts are told apart by their capabilities, by those who are refused one as by those who are handed them. */
function refuseRepeats(parts: readonly PartAsk[]): void {
  const names = parts.map(p => p.capability)
  const again = names.findIndex((name, i) => names.indexOf(name) < i)
  if (again >= 0)
    throw new CurfewError('malformed', 'a capability stands once in a bundle', { reason: 'capability_repeated', field: `capabilities.${again}.capability` })
}
