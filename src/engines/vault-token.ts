/** Owns the engine of Vault tokens for one policy: the per-issuance token itself is handed out, once it is active and kept for its life. */
import { z } from 'zod'
import type { Probe } from '../domain/credential.js'
import type { CredentialEngine } from '../ports.js'
import { failing, issuanceTokens, NEVER_MADE, type VaultEngineDeps } from './issuance-token.js'
import { checkParameters, tokenPolicy } from './parameters.js'

export const TOKEN_PARAMETERS = z.strictObject({
  /** What the holder may do at Vault: the paths of this policy, and nothing else. */
  policy: tokenPolicy,
  /** Where the holder finds Vault, when that is not where we find it. */
  address: z.url({ protocol: /^https?$/ }).optional(),
})
export type TokenParameters = z.output<typeof TOKEN_PARAMETERS>

export interface VaultTokenDeps extends Omit<VaultEngineDeps, 'clearSince'> {
  readonly parametersOf: (capability: string) => TokenParameters
  readonly address: string
  readonly namespace: string | null
}

const failed = failing('the Vault token')

export function vaultTokenEngine(deps: VaultTokenDeps): CredentialEngine {
  const tokens = issuanceTokens(deps)
  return {
    kind: 'vault-token',
    revocation: 'backend',
    local: false,
    check: parameters => checkParameters('vault-token', TOKEN_PARAMETERS, parameters),

    prepare(grant, signal) {
      const { policy } = deps.parametersOf(grant.terms.capability.name)
      return tokens.make(grant, policy, signal).catch(cause => Promise.reject(failed('prepared', cause)))
    },
    async mint(grant) {
      const { address = deps.address } = deps.parametersOf(grant.terms.capability.name)
      const rest = { VAULT_ADDR: address, ...(deps.namespace === null ? {} : { VAULT_NAMESPACE: deps.namespace }) }
      return { secret: tokens.take(grant).renamed('VAULT_TOKEN', rest), handle: {}, expiresAt: null, kid: null }
    },
    extend: (credential, signal) => tokens.keep(credential, signal).catch(cause => Promise.reject(failed('kept', cause))),

    async destroy(credential, signal) {
      tokens.forget(credential)
      if (!credential.handle) return
      await deps.revoker.revokeAccessor(String(credential.handle.accessor), signal).catch(cause => Promise.reject(failed('ended', cause)))
    },
    async probe(credential, signal): Promise<Probe> {
      if (!credential.handle) return NEVER_MADE
      try {
        const alive = await deps.revoker.accessorExists(String(credential.handle.accessor), signal)
        // The token is the credential, not a record of it.
        return { outcome: alive ? 'alive' : 'dead', looked: ['token'], detail: alive ? 'the token is still there' : null }
      } catch (cause) {
        throw failed('probed', cause)
      }
    },
  }
}
