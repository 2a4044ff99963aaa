/** Owns a certificate authority for tests: certificates and revocation lists as any real one makes them, and as a careless one would. */
import { webcrypto } from 'node:crypto'
import { Integer, Utf8String } from 'asn1js'
import { AltName, AttributeTypeAndValue, Certificate, CertificateRevocationList, Extension, GeneralName, RevokedCertificate, Time } from 'pkijs'

export interface Authority {
  /** Its own certificate, PEM. */
  readonly certificate: string
  issue(options: { serial: string; commonName: string; dns?: string[]; uris?: string[]; notAfter?: Date }): Promise<string>
  /** Of these serials, hexadecimal. */
  list(serials: readonly string[]): Promise<string>
}

export type KeyKind = 'ec' | 'rsa'
const ALGORITHM = {
  ec: { name: 'ECDSA', namedCurve: 'P-256' },
  rsa: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256', modulusLength: 2_048, publicExponent: new Uint8Array([1, 0, 1]) },
} as const

const pem = (label: string, der: ArrayBuffer) =>
  `-----BEGIN ${label}-----\n${Buffer.from(der)
    .toString('base64')
    .replace(/(.{64})(?!$)/g, '$1\n')}\n-----END ${label}-----\n`
const name = (text: string) => new AttributeTypeAndValue({ type: '2.5.4.3', value: new Utf8String({ value: text }) })
const integer = (hex: string) => new Integer({ valueHex: new Uint8Array(Buffer.from(hex.padStart(hex.length + (hex.length % 2), '0'), 'hex')) })

export async function authority(kind: KeyKind = 'ec'): Promise<Authority> {
  const keys = (await webcrypto.subtle.generateKey(ALGORITHM[kind], true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair
  const own = await certificate({ serial: '01', commonName: 'a test CA', publicKey: keys.publicKey })

  async function certificate(ask: {
    serial: string
    commonName: string
    publicKey: webcrypto.CryptoKey
    dns?: string[]
    uris?: string[]
    notAfter?: Date
  }): Promise<string> {
    const made = new Certificate({ version: 2, serialNumber: integer(ask.serial) })
    made.issuer.typesAndValues.push(name('a test CA'))
    made.subject.typesAndValues.push(name(ask.commonName))
    made.notBefore.value = new Date(Date.now() - 60_000)
    made.notAfter.value = ask.notAfter ?? new Date(Date.now() + 3_600_000)
    await made.subjectPublicKeyInfo.importKey(ask.publicKey)
    const names = [...(ask.dns ?? []).map(value => new GeneralName({ type: 2, value })), ...(ask.uris ?? []).map(value => new GeneralName({ type: 6, value }))]
    if (names.length > 0)
      made.extensions = [new Extension({ extnID: '2.5.29.17', critical: false, extnValue: new AltName({ altNames: names }).toSchema().toBER() })]
    await made.sign(keys.privateKey, 'SHA-256')
    return pem('CERTIFICATE', made.toSchema(true).toBER())
  }

  return {
    certificate: own,
    async issue(ask) {
      const subject = (await webcrypto.subtle.generateKey(ALGORITHM.ec, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair
      return certificate({ ...ask, publicKey: subject.publicKey })
    },
    async list(serials) {
      const made = new CertificateRevocationList({ version: 1 })
      made.issuer.typesAndValues.push(name('a test CA'))
      made.thisUpdate = new Time({ type: 0, value: new Date() })
      made.nextUpdate = new Time({ type: 0, value: new Date(Date.now() + 86_400_000) })
      if (serials.length > 0)
        made.revokedCertificates = serials.map(
          serial => new RevokedCertificate({ userCertificate: integer(serial), revocationDate: new Time({ type: 0, value: new Date() }) }),
        )
      await made.sign(keys.privateKey, 'SHA-256')
      return pem('X509 CRL', made.toSchema(true).toBER())
    },
  }
}
