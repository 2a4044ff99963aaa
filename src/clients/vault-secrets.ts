/** Owns the secrets that Vault makes for us, each read with a per-issuance token, and how one kind is ended or looked at by its own paths. */
import type { Secret } from '../domain/secret.js'
import { type CallOptions, dataOf, type Transport, textOf, VaultError } from './vault-transport.js'

export interface DynamicSecret {
  readonly leaseId: string
  readonly leaseSeconds: number
  readonly username: string
  readonly password: string
}

export interface CertificateAsk {
  readonly mount: string
  readonly role: string
  /** PEM: Vault certifies this key; null: it makes one. */
  readonly csr: string | null
  readonly commonName: string
  readonly dnsNames: readonly string[]
  readonly uris: readonly string[]
  readonly ttlSeconds: number
}

export interface IssuedCertificate {
  /** Null: the role makes no leases. */
  readonly leaseId: string | null
  /** As Vault writes it: `12:c1:ab`. */
  readonly serial: string
  /** PEM, all of them. */
  readonly certificate: string
  readonly privateKey: string | null
  readonly issuingCa: string
  readonly chain: readonly string[]
}

export interface KeyAsk {
  readonly mount: string
  readonly role: string
  /** `ssh-ed25519 AAAA…` */
  readonly publicKey: string
  readonly principals: readonly string[]
  readonly extensions: Readonly<Record<string, string>>
  readonly criticalOptions: Readonly<Record<string, string>>
  readonly ttlSeconds: number
}

export interface VaultSecrets {
  readDynamic(mount: string, role: string, token: Secret, signal: AbortSignal): Promise<DynamicSecret>
  issueCertificate(ask: CertificateAsk, token: Secret, signal: AbortSignal): Promise<IssuedCertificate>
  /** Answers the certificate, as a line of OpenSSH. */
  signKey(ask: KeyAsk, token: Secret, signal: AbortSignal): Promise<string>
  /** By serial, lease or not; idempotent. */
  revokeCertificate(mount: string, serial: string, signal: AbortSignal): Promise<void>
  /** What anybody may read: ids of the issuers of a mount, the default first, and of each its certificate and its revocation list, PEM. */
  issuers(mount: string, signal: AbortSignal): Promise<readonly string[]>
  issuerCertificate(mount: string, issuer: string, signal: AbortSignal): Promise<string>
  revocationList(mount: string, issuer: string, signal: AbortSignal): Promise<string>
}

/** A sync revocation waits for the target; a listing is long. Milliseconds, bytes. */
export const SYNC_MS = 10_000
export const LIST_BYTES = 33_554_432

const leaseOf = (answer: unknown) => (answer ?? {}) as { readonly lease_id?: unknown; readonly lease_duration?: unknown }

type Write = (path: string, body: object, options: CallOptions) => Promise<unknown>

/** @param write as our own identity. */
export function secretsAt(transport: Transport, write: Write): VaultSecrets {
  const by = (token: Secret) => ({ token: token.reveal().token as string, deadlineMs: SYNC_MS })
  const open = { deadlineMs: SYNC_MS, maxBytes: LIST_BYTES }
  return {
    async readDynamic(mount, role, token, signal) {
      const answer = await transport.read(`${mount}/creds/${role}`, { template: '<mount>/creds/<role>', ...by(token), signal })
      const { username, password } = dataOf(answer)
      const lease = leaseOf(answer)
      return {
        leaseId: textOf(lease.lease_id, 'the lease'),
        leaseSeconds: Number(lease.lease_duration ?? 0),
        username: textOf(username, 'the user'),
        password: textOf(password, 'the password'),
      }
    },
    async issueCertificate(ask, token, signal) {
      const act = ask.csr === null ? 'issue' : 'sign'
      const body = {
        common_name: ask.commonName,
        // The name of the credential is none of a host.
        exclude_cn_from_sans: true,
        alt_names: ask.dnsNames.join(','),
        uri_sans: ask.uris,
        ttl: `${ask.ttlSeconds}s`,
        ...(ask.csr === null ? {} : { csr: ask.csr }),
      }
      const answer = await transport.write(`${ask.mount}/${act}/${ask.role}`, body, { template: `<mount>/${act}/<role>`, ...by(token), signal })
      const { lease_id } = leaseOf(answer)
      const made = dataOf(answer)
      return {
        leaseId: typeof lease_id === 'string' && lease_id !== '' ? lease_id : null,
        serial: textOf(made.serial_number, 'the serial number'),
        certificate: textOf(made.certificate, 'the certificate'),
        privateKey: ask.csr === null ? textOf(made.private_key, 'the private key') : null,
        issuingCa: textOf(made.issuing_ca, 'the issuing CA'),
        chain: Array.isArray(made.ca_chain) ? made.ca_chain.map(c => textOf(c, 'the chain')) : [textOf(made.issuing_ca, 'the issuing CA')],
      }
    },
    async signKey(ask, token, signal) {
      const body = {
        public_key: ask.publicKey,
        cert_type: 'user',
        valid_principals: ask.principals.join(','),
        extensions: ask.extensions,
        critical_options: ask.criticalOptions,
        ttl: `${ask.ttlSeconds}s`,
      }
      const answer = await transport.write(`${ask.mount}/sign/${ask.role}`, body, { template: '<mount>/sign/<role>', ...by(token), signal })
      return textOf(dataOf(answer).signed_key, 'the certificate').trim()
    },
    async revokeCertificate(mount, serial, signal) {
      await write(`${mount}/revoke`, { serial_number: serial }, { template: '<mount>/revoke', deadlineMs: SYNC_MS, signal })
    },
    async issuers(mount, signal) {
      const { keys, key_info: info } = dataOf(await transport.list(`${mount}/issuers`, { template: '<mount>/issuers', ...open, signal }))
      if (!Array.isArray(keys) || keys.some(k => typeof k !== 'string'))
        throw new VaultError('ambiguous', 200, 'LIST', '<mount>/issuers, which holds no list of keys')
      const isDefault = (id: string) => (info as Record<string, { is_default?: unknown }> | undefined)?.[id]?.is_default === true
      return (keys as string[]).sort((a, b) => Number(isDefault(b)) - Number(isDefault(a)))
    },
    async issuerCertificate(mount, issuer, signal) {
      const answer = await transport.read(`${mount}/issuer/${issuer}/json`, { template: '<mount>/issuer/<ref>/json', ...open, signal })
      return textOf(dataOf(answer).certificate, 'the certificate of the issuer')
    },
    async revocationList(mount, issuer, signal) {
      const answer = await transport.read(`${mount}/issuer/${issuer}/crl`, { template: '<mount>/issuer/<ref>/crl', ...open, signal })
      return textOf(dataOf(answer).crl, 'the revocation list')
    },
  }
}
