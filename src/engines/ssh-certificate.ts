/** Owns reading OpenSSH's public keys and certificates (PROTOCOL.certkeys): what a caller may have certified, and what Vault made of it. */
import { SshReader, sshString } from '../domain/ssh-wire.js'

export interface SshCertificate {
  /** The key it certifies, as in `ssh-ed25519 AAAA…`. */
  readonly publicKey: string
  readonly isUser: boolean
  readonly serial: bigint
  readonly keyId: string
  readonly principals: readonly string[]
  readonly validBefore: Date
  readonly criticalOptions: Readonly<Record<string, string>>
  readonly extensions: Readonly<Record<string, string>>
}

/** Its own words stay within. */
export class SshKeyError extends Error {
  override readonly name = 'SshKeyError'
}

/** By type, how many fields its key has. */
const KEY_FIELDS: Readonly<Record<string, number>> = {
  'ssh-ed25519': 1,
  'ecdsa-sha2-nistp256': 2,
  'ecdsa-sha2-nistp384': 2,
  'ecdsa-sha2-nistp521': 2,
  'ssh-rsa': 2,
  // Keys that live in hardware: their application comes last.
  'sk-ssh-ed25519@openssh.com': 2,
  'sk-ecdsa-sha2-nistp256@openssh.com': 3,
}
const CERTIFICATE = '-cert-v01@openssh.com'
const USER = 1
const RSA_BITS_MIN = 2_048
/** A certificate without an end says 2^64 - 1, which no Date is. Milliseconds. */
const LATEST = 8_640_000_000_000_000
/** Longest line that is read. */
const LINE_MAX = 8_192

/** One public key, without options; its comment is dropped. @throws {SshKeyError} */
export function readPublicKey(line: string): string {
  const { type, blob } = split(line)
  return reading('public key', () => {
    const fields = KEY_FIELDS[type]
    const reader = new SshReader(blob)
    if (fields === undefined || reader.text() !== type) throw new SshKeyError('this is no public key of a kind that is certified')
    const key = Array.from({ length: fields }, () => reader.string())
    if (!reader.done || key.some(f => f.length === 0)) throw new SshKeyError('this is no readable public key')
    if (type === 'ssh-rsa' && bitsOf(key[1] as Buffer) < RSA_BITS_MIN) throw new SshKeyError(`an RSA key must have ${RSA_BITS_MIN} bits or more`)
    if (type === 'ssh-ed25519' && key[0]?.length !== 32) throw new SshKeyError('this is no readable public key')
    return `${type} ${blob.toString('base64')}`
  })
}

/** @throws {SshKeyError} */
export function readSshCertificate(line: string): SshCertificate {
  const { type, blob } = split(line)
  return reading('certificate', () => {
    const reader = new SshReader(blob)
    // Hardware keys write the suffix in the middle of theirs: sk-ssh-ed25519-cert-v01@openssh.com.
    const plain = Object.keys(KEY_FIELDS).find(t => t.replace('@openssh.com', '') + CERTIFICATE === type)
    if (plain === undefined || reader.text() !== type) throw new SshKeyError('this is no certificate')
    reader.string() // nonce
    const key = Array.from({ length: KEY_FIELDS[plain] as number }, () => reader.string())
    const serial = reader.uint64()
    const kind = reader.uint32()
    const keyId = reader.text()
    const principals = listOf(reader.string(), r => r.text())
    reader.uint64() // valid after
    const validBefore = Number(reader.uint64())
    const criticalOptions = Object.fromEntries(listOf(reader.string(), optionOf))
    const extensions = Object.fromEntries(listOf(reader.string(), optionOf))
    return {
      publicKey: `${plain} ${Buffer.concat([plain, ...key].map(sshString)).toString('base64')}`,
      isUser: kind === USER,
      serial,
      keyId,
      principals,
      validBefore: new Date(Math.min(validBefore * 1000, LATEST)),
      criticalOptions,
      extensions,
    }
  })
}

function listOf<T>(bytes: Buffer, one: (reader: SshReader) => T): T[] {
  const reader = new SshReader(bytes)
  const found: T[] = []
  while (!reader.done) found.push(one(reader))
  return found
}

/** A name, and a value that is packed once more where there is one. */
function optionOf(reader: SshReader): [string, string] {
  const name = reader.text()
  const data = reader.string()
  return [name, data.length === 0 ? '' : new SshReader(data).text()]
}

function split(line: string): { type: string; blob: Buffer } {
  const found = line.length <= LINE_MAX ? /^([a-z0-9@.-]{1,60}) ([A-Za-z0-9+/]+={0,2})(?: [^\r\n]*)?\s*$/.exec(line) : null
  if (!found) throw new SshKeyError('this is no single line of a type and a key')
  return { type: found[1] as string, blob: Buffer.from(found[2] as string, 'base64') }
}

function bitsOf(mpint: Buffer): number {
  const first = mpint.findIndex(b => b !== 0)
  return first < 0 ? 0 : (mpint.length - first - 1) * 8 + (32 - Math.clz32(mpint[first] as number))
}

function reading<T>(what: string, read: () => T): T {
  try {
    return read()
  } catch (cause) {
    throw cause instanceof SshKeyError ? cause : new SshKeyError(`this is no readable ${what}`, { cause })
  }
}
