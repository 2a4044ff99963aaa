/**
 * Owns the engine of SSH certificates by Vault. Nobody can end one early: it stays `revoking` until its own end, and says until when it is
 * exposed. The list of revoked keys helps the hosts that load it (docs/ssh.md).
 */
import { z } from 'zod'
import type { KeyAsk } from '../clients/vault-secrets.js'
import type { Probe } from '../domain/credential.js'
import { CurfewError } from '../domain/errors.js'
import { Secret } from '../domain/secret.js'
import { sshKeyId } from '../domain/ssh-krl.js'
import type { CredentialEngine } from '../ports.js'
import { failing, issuanceTokens, NEVER_MADE, type VaultEngineDeps, wholeSecondsLeft } from './issuance-token.js'
import { checkParameters, segment, tokenPolicy } from './parameters.js'
import { readPublicKey, readSshCertificate, type SshCertificate, SshKeyError } from './ssh-certificate.js'

/** Written in the configuration, never made of a claim (T65); Vault takes a list of them as one text with commas. */
const principal = z.string().regex(/^[A-Za-z0-9._@-]{1,64}$/, 'must be letters, digits and . _ @ -')
const optionName = z.string().regex(/^[A-Za-z0-9.@-]{1,64}$/, 'must be the name of an OpenSSH option')
const options = z.record(optionName, z.string().max(1_024)).default({})

export const SSH_PARAMETERS = z.strictObject({
  mount: segment.default('ssh'),
  role: segment,
  /** Writes the role's one path: `ssh/sign/<role>`. */
  policy: tokenPolicy,
  /** The accounts that it is good for. */
  principals: z.array(principal).min(1).max(32),
  /** `permit-pty: ""`; what is not here is not permitted. */
  extensions: options,
  /** `force-command`, `source-address`. */
  criticalOptions: options,
})
export type SshParameters = z.output<typeof SSH_PARAMETERS>

export interface VaultSshDeps extends Omit<VaultEngineDeps, 'clearSince'> {
  readonly parametersOf: (capability: string) => SshParameters
}

/** Vault's clock may be ahead of the store's, and nobody can shorten what it has made. Seconds, and at most a quarter of the life. */
const CLOCKS_APART = 5

const failed = failing('the SSH certificate')

export function vaultSshEngine(deps: VaultSshDeps): CredentialEngine {
  const tokens = issuanceTokens(deps)
  return {
    kind: 'vault-ssh',
    revocation: 'expiry-only',
    local: false,
    check: parameters => checkParameters('vault-ssh', SSH_PARAMETERS, parameters),
    takes: () => ({ public_key: 'required' }),
    ask({ public_key: key }) {
      try {
        readPublicKey(String(key))
      } catch (cause) {
        if (!(cause instanceof SshKeyError)) throw cause
        throw new CurfewError('malformed', cause.message, { reason: 'invalid_field', field: 'params.public_key' }, { cause })
      }
    },

    prepare(grant, signal) {
      const { policy } = deps.parametersOf(grant.terms.capability.name)
      return tokens.make(grant, policy, signal).catch(cause => Promise.reject(failed('prepared', cause)))
    },

    async mint(grant, handle, signal) {
      const token = tokens.take(grant)
      const parameters = deps.parametersOf(grant.terms.capability.name)
      const left = wholeSecondsLeft(grant.expiresAt, deps.clock)
      const ask: KeyAsk = {
        ...parameters,
        publicKey: readPublicKey(String(grant.terms.params.public_key)),
        ttlSeconds: Math.max(1, left - Math.min(CLOCKS_APART, Math.floor(left / 4))),
      }
      const line = await deps.issuer.signKey(ask, token, signal).catch(cause => Promise.reject(failed('made', cause)))
      // It has done its work. What fails here ends by itself: nobody keeps this token.
      if (handle?.accessor !== undefined) await deps.issuer.revokeAccessor(String(handle.accessor), signal).catch(() => {})
      const certificate = demandGranted(line, ask, sshKeyId(grant.id), grant.expiresAt)
      return {
        secret: new Secret({ ssh_certificate: line }, 'ssh_certificate'),
        handle: { serial: certificate.serial.toString(), validBefore: certificate.validBefore.getTime() / 1000 },
        expiresAt: certificate.validBefore,
        kid: null,
      }
    },

    async destroy(credential, signal) {
      tokens.forget(credential)
      const { handle } = credential
      // The token that made it; past the mint window and its own short life there is none.
      if (!handle || handle.serial !== undefined || deps.clock.now().getTime() > credential.deadlineAt.getTime() + deps.issuanceTokenSeconds * 1000) return
      await deps.revoker.revokeAccessor(String(handle.accessor), signal).catch(cause => Promise.reject(failed('ended', cause)))
    },

    async probe(credential, signal): Promise<Probe> {
      const { handle } = credential
      if (!handle) return NEVER_MADE
      const now = deps.clock.now().getTime()
      if (handle.serial === undefined) {
        // Never settled, so never handed over; without its token nothing more can be signed.
        const alive = await deps.revoker.accessorExists(String(handle.accessor), signal).catch(cause => Promise.reject(failed('probed', cause)))
        return { outcome: alive ? 'alive' : 'dead', looked: ['accessor'], detail: alive ? 'the token is still there' : null }
      }
      if (Number(handle.validBefore) * 1000 <= now) return { outcome: 'dead', looked: ['expiry'], detail: null }
      return { outcome: 'waiting', looked: [], detail: 'hosts that do not load the list of revoked keys accept it until its own end' }
    },
  }
}

/** What leaves is what was granted: for whom, how long, and under the name by which a list can revoke it. */
function demandGranted(line: string, ask: KeyAsk, keyId: string, until: Date): SshCertificate {
  const made = readSshCertificate(line)
  const differs = (reason: string, message: string, next: string) => new CurfewError('engine_failed', message, { reason, next })
  if (made.keyId !== keyId)
    throw differs(
      'key_id_differs',
      'its Vault role names the certificate otherwise than a revocation list would',
      "ask an admin to set key_id_format='curfew-{{token_display_name}}' on the role",
    )
  const same = (a: object, b: object) => JSON.stringify(Object.entries(a).sort()) === JSON.stringify(Object.entries(b).sort())
  const isAsAsked =
    made.isUser &&
    made.publicKey === ask.publicKey &&
    [...made.principals].sort().join() === [...ask.principals].sort().join() &&
    same(made.extensions, ask.extensions) &&
    same(made.criticalOptions, ask.criticalOptions)
  if (!isAsAsked) throw differs('names_differ', 'its Vault role put something else into the certificate than was asked for', 'ask an admin to look at the role')
  if (made.validBefore > until)
    throw differs('outlives_grant', 'the certificate would outlive its grant: clocks are apart', 'ask an admin to look at the clocks')
  return made
}
