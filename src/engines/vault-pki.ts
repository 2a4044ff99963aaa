/** Owns the engine of X.509 certificates by Vault: nothing without a lease, and dead when the issuer's own list says so (security.md 3.3, 3.4). */
import { z } from 'zod'
import type { CertificateAsk, IssuedCertificate } from '../clients/vault-secrets.js'
import type { Handle, Probe } from '../domain/credential.js'
import type { Grant } from '../domain/decision.js'
import { CurfewError } from '../domain/errors.js'
import { dashed } from '../domain/ids.js'
import { Secret } from '../domain/secret.js'
import type { CredentialEngine } from '../ports.js'
import { endAtVault, failing, issuanceTokens, lookAtVault, NEVER_MADE, unrecordedLease, type VaultEngineDeps, wholeSecondsLeft } from './issuance-token.js'
import { checkParameters, segment, tokenPolicy } from './parameters.js'
import { checkRequest, issuerKeyOf, readCertificate, readRevocationList, serialOf, X509Error } from './x509.js'

const dnsName = z
  .string()
  .max(253)
  .regex(/^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$/, 'must be a DNS name in lower case')
/** Written in the configuration, never made of a claim (T65). */
const uri = z
  .string()
  .max(2_048)
  .regex(/^[a-z][a-z0-9+.-]*:[A-Za-z0-9._~:/@=-]+$/, 'must be a URI of letters, digits and . _ ~ : / @ = -')

export const PKI_PARAMETERS = z.strictObject({
  mount: segment.default('pki'),
  role: segment,
  /** Writes `pki/issue/<role>`, `pki/sign/<role>`, or both, as `key` says. */
  policy: tokenPolicy,
  /** Who makes the key: Vault, or the caller, who sends a certificate request (`params.csr`). */
  key: z.enum(['vault', 'caller', 'either']).default('vault'),
  /** The common name is always the credential's id. These come beside it, word for word. */
  dnsNames: z.array(dnsName).max(16).default([]),
  uris: z.array(uri).max(16).default([]),
  /** Adds the verified identity of the workload as a URI: `spiffe://…`, `github:repository_id=…`. */
  identity: z.boolean().default(false),
})
export type PkiParameters = z.output<typeof PKI_PARAMETERS>

export interface VaultPkiDeps extends VaultEngineDeps {
  readonly parametersOf: (capability: string) => PkiParameters
}

const failed = failing('the certificate')

export function vaultPkiEngine(deps: VaultPkiDeps): CredentialEngine {
  const tokens = issuanceTokens(deps)

  /** By mount and key: an issuer keeps its key for as long as it is there. */
  const found = new Map<string, string>()

  /** Which issuer of the mount this is, by its key: its list is the one that counts, whatever the default becomes. */
  async function issuerOf(mount: string, key: string, signal: AbortSignal): Promise<string> {
    const known = found.get(`${mount} ${key}`) ?? (await searched(mount, key, signal))
    found.set(`${mount} ${key}`, known)
    return known
  }
  async function searched(mount: string, key: string, signal: AbortSignal): Promise<string> {
    for (const issuer of await deps.issuer.issuers(mount, signal))
      if (issuerKeyOf(await deps.issuer.issuerCertificate(mount, issuer, signal)) === key) return issuer
    throw new CurfewError('engine_failed', 'no issuer of the mount has signed it', { reason: 'issuer_unknown' })
  }

  /** The list as verifiers get it, believed only when the key that signed the certificate has signed it. */
  async function isListed(handle: Handle, signal: AbortSignal): Promise<boolean> {
    const [mount, issuer] = [String(handle.mount), String(handle.issuer)]
    const [certificate, list] = await Promise.all([deps.revoker.issuerCertificate(mount, issuer, signal), deps.revoker.revocationList(mount, issuer, signal)])
    if (issuerKeyOf(certificate) !== handle.issuerKey)
      throw new CurfewError('engine_failed', 'the issuer has another key than the one that signed it', { reason: 'issuer_changed' })
    return (await readRevocationList(list, certificate))(serialOf(String(handle.serial)))
  }

  return {
    kind: 'vault-pki',
    revocation: 'backend',
    local: false,
    check: parameters => checkParameters('vault-pki', PKI_PARAMETERS, parameters),
    takes(parameters) {
      const { key } = PKI_PARAMETERS.parse(parameters)
      return key === 'vault' ? {} : { csr: key === 'caller' ? 'required' : 'optional' }
    },
    async ask({ csr }) {
      if (csr === undefined) return
      try {
        await checkRequest(String(csr))
      } catch (cause) {
        if (!(cause instanceof X509Error)) throw cause
        throw new CurfewError('malformed', cause.message, { reason: 'invalid_field', field: 'params.csr' }, { cause })
      }
    },

    async prepare(grant, signal) {
      const { policy, identity } = deps.parametersOf(grant.terms.capability.name)
      if (identity) refuseUnwritable(grant.terms.attestation.identity)
      return tokens.make(grant, policy, signal).catch(cause => Promise.reject(failed('prepared', cause)))
    },

    async mint(grant, _handle, signal) {
      const token = tokens.take(grant)
      const ask = askOf(grant, deps.parametersOf(grant.terms.capability.name), wholeSecondsLeft(grant.expiresAt, deps.clock))
      try {
        const made = await deps.issuer.issueCertificate(ask, token, signal)
        if (made.leaseId === null) throw await undone(made, ask.mount, signal)
        const facts = await readCertificate(made.certificate)
        refuseOtherThanAsked(facts, ask)
        const issuerKey = issuerKeyOf(made.issuingCa)
        return {
          secret: secretOf(made),
          handle: {
            leaseId: made.leaseId,
            mount: ask.mount,
            serial: made.serial,
            notAfter: Math.floor(facts.notAfter.getTime() / 1000),
            issuer: await issuerOf(ask.mount, issuerKey, signal),
            issuerKey,
          },
          expiresAt: facts.notAfter,
          kid: null,
        }
      } catch (cause) {
        throw failedToMake(cause)
      }
    },

    extend: (credential, signal) => tokens.keep(credential, signal).catch(cause => Promise.reject(failed('kept', cause))),

    async destroy(credential, signal) {
      tokens.forget(credential)
      const handle = credential.handle
      if (!handle) return
      try {
        await endAtVault(deps.revoker, handle, signal)
        // By itself as well: a lease that somebody removed by force has revoked nothing.
        if (handle.serial !== undefined && !isOver(handle, deps.clock.now()))
          await deps.revoker.revokeCertificate(String(handle.mount), String(handle.serial), signal)
      } catch (cause) {
        throw failed('ended', cause)
      }
    },

    async probe(credential, signal): Promise<Probe> {
      const handle = credential.handle
      if (!handle) return NEVER_MADE
      const looked: string[] = []
      try {
        const left = await lookAtVault(deps.revoker, handle, looked, signal)
        if (left !== null) return { outcome: 'alive', looked, detail: left }
        if (handle.serial === undefined) return unrecordedLease(credential, deps, looked)
        // A list need not name what has ended anyway.
        if (isOver(handle, deps.clock.now())) return { outcome: 'dead', looked: [...looked, 'expiry'], detail: null }
        looked.push('crl')
        if (!(await isListed(handle, signal))) return { outcome: 'alive', looked, detail: 'the revocation list does not name it yet' }
        return { outcome: 'dead', looked, detail: null }
      } catch (cause) {
        throw failed('probed', cause)
      }
    },
  }

  /** Nothing would end it but itself, so it is taken back before anybody hears of it. */
  async function undone(made: IssuedCertificate, mount: string, signal: AbortSignal): Promise<CurfewError> {
    await deps.revoker.revokeCertificate(mount, made.serial, signal)
    return new CurfewError('engine_failed', 'its Vault role makes certificates without a lease, which nothing could end: this one was revoked', {
      reason: 'lease_missing',
      next: 'ask an admin to set generate_lease=true on the role; curfew doctor names it',
    })
  }
}

const isOver = (handle: Handle, now: Date) => Number(handle.notAfter) * 1000 <= now.getTime()

/** Characters that mean something to Vault's globs and lists, or to a reader of the certificate (T65). */
function refuseUnwritable(identity: string): void {
  if (!uri.safeParse(identity).success)
    throw new CurfewError('policy_denied', 'this identity cannot stand in a certificate as it is', { reason: 'identity_not_a_uri', next: 'ask an admin' })
}

function askOf(grant: Grant, parameters: PkiParameters, ttlSeconds: number): CertificateAsk {
  return {
    mount: parameters.mount,
    role: parameters.role,
    csr: grant.terms.params.csr === undefined ? null : String(grant.terms.params.csr),
    commonName: dashed(grant.id),
    dnsNames: parameters.dnsNames,
    uris: parameters.identity ? [...parameters.uris, grant.terms.attestation.identity] : parameters.uris,
    ttlSeconds,
  }
}

/** What leaves names what was granted and nothing else, whatever the role or the caller's request would add. */
function refuseOtherThanAsked(facts: Awaited<ReturnType<typeof readCertificate>>, ask: CertificateAsk): void {
  const wanted = [...ask.dnsNames.map(n => `dns:${n}`), ...ask.uris.map(u => `uri:${u}`)].sort()
  if (facts.commonName !== ask.commonName || facts.names.join(' ') !== wanted.join(' '))
    throw new CurfewError('engine_failed', 'its Vault role put other names into the certificate than were asked for', {
      reason: 'names_differ',
      next: 'ask an admin to set use_csr_common_name=false and use_csr_sans=false on the role',
    })
}

function secretOf(made: IssuedCertificate): Secret {
  const fields = { certificate: pem([made.certificate]), ca_chain: pem(made.chain) }
  return made.privateKey === null ? new Secret(fields, 'certificate') : new Secret({ private_key: pem([made.privateKey]), ...fields }, 'private_key')
}

const pem = (blocks: readonly string[]) => `${blocks.map(b => b.trim()).join('\n')}\n`

/** A reason of ours is told as it is; Vault's answers by their kind alone. */
const failedToMake = (cause: unknown) => (cause instanceof CurfewError ? cause : failed('made', cause))
