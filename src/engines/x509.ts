/** Owns reading X.509: what a certificate names, who signed a request, and which serials a list revokes once its issuer's signature is verified. */
import { createHash, createPublicKey, type KeyObject, verify, X509Certificate } from 'node:crypto'
import type { AltName, GeneralName } from 'pkijs'

export interface CertificateFacts {
  /** Lower-case hexadecimal without leading zeros, as `serialOf` writes it. */
  readonly serial: string
  readonly commonName: string | null
  /** `dns:orders.example`, `uri:spiffe://…`, or `other:<tag>` for what we never ask for. Sorted. */
  readonly names: readonly string[]
  readonly notAfter: Date
  /** SHA-256 of its public key (SubjectPublicKeyInfo), base64url. */
  readonly key: string
}

/** Longest that is parsed at all: a chain link, a request. Characters of PEM. */
const PEM_MAX = 16_384
/** RFC 5280 section 4.2.1.6: the tags of a GeneralName. */
const DNS = 2
const URI = 6

/** Its own words stay within: what was parsed may be hostile. */
export class X509Error extends Error {
  override readonly name = 'X509Error'
}

export async function readCertificate(pem: string): Promise<CertificateFacts> {
  const { Certificate } = await import('pkijs')
  return reading('certificate', () => {
    const parsed = Certificate.fromBER(derOf(pem, 'CERTIFICATE'))
    const commonNames = parsed.subject.typesAndValues.filter(t => t.type === '2.5.4.3').map(t => String(t.value.valueBlock.value))
    const [sans, ...more] = (parsed.extensions ?? []).filter(e => e.extnID === '2.5.29.17').map(e => e.parsedValue as AltName)
    if (more.length > 0) throw new X509Error('the certificate has its names twice')
    return {
      serial: hex(parsed.serialNumber.valueBlock.valueHexView),
      commonName: commonNames.length === 1 ? (commonNames[0] as string) : null,
      names: (sans?.altNames ?? []).map(nameOf).sort(),
      notAfter: parsed.notAfter.value,
      key: keyDigest(new X509Certificate(pem).publicKey),
    }
  })
}

const nameOf = ({ type, value }: GeneralName) => (type === DNS ? `dns:${value}` : type === URI ? `uri:${value}` : `other:${type}`)

/** Answers whether a serial (as `serialOf` writes it) is on the list. @throws {X509Error} unless this issuer signed it. */
export async function readRevocationList(pem: string, issuerPem: string): Promise<(serial: string) => boolean> {
  const { CertificateRevocationList } = await import('pkijs')
  const list = reading('revocation list', () => CertificateRevocationList.fromBER(derOf(pem, 'X509 CRL', Number.POSITIVE_INFINITY)))
  const issuer = reading('certificate', () => new X509Certificate(issuerPem).publicKey)
  demandSignature('revocation list', list.signatureAlgorithm.algorithmId, list.tbsView, issuer, list.signatureValue.valueBlock.valueHexView)
  const serials = new Set((list.revokedCertificates ?? []).map(r => hex(r.userCertificate.valueBlock.valueHexView)))
  return serial => serials.has(serial)
}

/** A request that whoever holds its key has made: PKCS #10, signed by itself. @throws {X509Error} */
export async function checkRequest(pem: string): Promise<void> {
  const { CertificationRequest } = await import('pkijs')
  const request = reading('certificate request', () => CertificationRequest.fromBER(derOf(pem, 'CERTIFICATE REQUEST')))
  const key = reading('certificate request', () =>
    createPublicKey({ key: Buffer.from(request.subjectPublicKeyInfo.toSchema().toBER()), format: 'der', type: 'spki' }),
  )
  demandSignature('certificate request', request.signatureAlgorithm.algorithmId, request.tbsView, key, request.signatureValue.valueBlock.valueHexView)
}

/** Whose key it is, whatever certificate it stands in. */
export function issuerKeyOf(certificatePem: string): string {
  return reading('certificate', () => keyDigest(new X509Certificate(certificatePem).publicKey))
}

/** `12:C1:ab` and `12c1ab` are one serial. */
export function serialOf(text: string): string {
  return text.replaceAll(':', '').toLowerCase().replace(/^0+/, '')
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex').replace(/^0+/, '')
const keyDigest = (key: KeyObject) =>
  createHash('sha256')
    .update(key.export({ format: 'der', type: 'spki' }))
    .digest('base64url')

/** By the OID of the signature; null: the algorithm says its own digest. RSA here is PKCS #1 v1.5. */
const SIGNED_BY: Readonly<Record<string, { readonly key: string; readonly digest: string | null }>> = {
  '1.2.840.113549.1.1.11': { key: 'rsa', digest: 'sha256' },
  '1.2.840.113549.1.1.12': { key: 'rsa', digest: 'sha384' },
  '1.2.840.113549.1.1.13': { key: 'rsa', digest: 'sha512' },
  '1.2.840.10045.4.3.2': { key: 'ec', digest: 'sha256' },
  '1.2.840.10045.4.3.3': { key: 'ec', digest: 'sha384' },
  '1.2.840.10045.4.3.4': { key: 'ec', digest: 'sha512' },
  '1.3.101.112': { key: 'ed25519', digest: null },
}

function demandSignature(what: string, oid: string, signed: Uint8Array, key: KeyObject, signature: Uint8Array): void {
  const by = SIGNED_BY[oid]
  if (by === undefined || by.key !== key.asymmetricKeyType) throw new X509Error(`the ${what} is signed in a way that is not accepted`)
  if (!verify(by.digest, signed, key, signature)) throw new X509Error(`the ${what} is not signed by its key`)
}

function derOf(pem: string, label: string, max = PEM_MAX): Uint8Array<ArrayBuffer> {
  const body = pem.length <= max ? new RegExp(`^-----BEGIN ${label}-----\\r?\\n([A-Za-z0-9+/=\\r\\n]+)-----END ${label}-----\\s*$`).exec(pem)?.[1] : undefined
  if (body === undefined) throw new X509Error(`this is no single PEM block of a ${label.toLowerCase()}`)
  return new Uint8Array(Buffer.from(body, 'base64'))
}

function reading<T>(what: string, read: () => T): T {
  try {
    return read()
  } catch (cause) {
    throw cause instanceof X509Error ? cause : new X509Error(`this is no readable ${what}`, { cause })
  }
}
