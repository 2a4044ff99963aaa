/** Verb: may this request pass, for a proxy that asks about it. The same look as introspection, with scope and proof; at most as old as the last commit. */
import type { Audience } from '../domain/capability.js'
import { verifyProof } from '../domain/dpop.js'
import { CurfewError } from '../domain/errors.js'
import type { OriginalRequest } from '../domain/original-request.js'
import type { BrokerDeps } from './deps.js'
import { introspect, type Live } from './introspect.js'

export interface AdmitAsk {
  readonly audience: Audience
  readonly scope: string | null
  readonly request: OriginalRequest
  readonly scheme: string
  readonly token: string
  readonly proofs: readonly string[]
}

const refused = (reason: string, message: string, field = 'Authorization') => new CurfewError('attestation_refused', message, { reason, field })

export async function admit(deps: BrokerDeps, ask: AdmitAsk): Promise<Live> {
  const live = await introspect(deps, ask.audience, ask.token)
  if (!live) throw refused('inactive', 'this token is not active')
  await demandProof(deps, ask, live)
  const scopes = typeof live.claims.scope === 'string' ? live.claims.scope.split(' ') : []
  if (ask.scope !== null && !scopes.includes(ask.scope))
    throw new CurfewError('forbidden', 'this token does not have the scope that is asked for', { reason: 'scope_missing' })
  return live
}

/** A bound token without its proof is a stolen one (RFC 9449 section 7.1); a proof is good once, for this request. */
async function demandProof(deps: BrokerDeps, ask: AdmitAsk, { credential }: Live): Promise<void> {
  if (credential.jkt === null) {
    if (ask.scheme !== 'bearer') throw refused('scheme_mismatch', 'this token is a bearer token')
    return
  }
  if (ask.scheme !== 'dpop') throw refused('bearer_downgrade', 'this token is bound to a key: a proof is required')
  const [proof, ...others] = ask.proofs
  if (proof === undefined || others.length > 0)
    throw new CurfewError('proof_refused', 'exactly one DPoP proof is required', {
      reason: proof === undefined ? 'proof_missing' : 'proof_repeated',
      field: 'DPoP',
    })
  const { jkt, mark } = await verifyProof(proof, {
    method: ask.request.method,
    // The registered address of the resource server: whoever can forge Host must not choose what a proof is good for (H31).
    url: new URL(ask.audience.uri).origin + ask.request.path,
    now: deps.store.clock.now(),
    accessToken: ask.token,
  })
  if (jkt !== credential.jkt)
    throw new CurfewError('proof_refused', 'the proof is by another key than the token is bound to', { reason: 'key_mismatch', field: 'DPoP' })
  await deps.store.replay.claim([{ ...mark, namespace: `${ask.audience.name} ${mark.namespace}` }])
}
