/** Verb: issue one credential to the holder of a task. */
import type { BrokerDeps } from './deps.js'
import { type AskTerms, grant, type PartAsk } from './grant.js'
import type { Holder } from './holder.js'
import { type Issued, make } from './make.js'

export interface CredentialAsk extends PartAsk, AskTerms {}

export async function issue(deps: BrokerDeps, holder: Holder, ask: CredentialAsk, requestId: string | null, signal: AbortSignal): Promise<Issued> {
  const { grants, options } = await grant(deps, holder, [ask], ask, requestId, signal)
  const [issued] = await make(deps, grants, options, signal)
  return issued as Issued
}
