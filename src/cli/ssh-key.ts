/** Owns a key pair that lives as long as one command: Ed25519, as OpenSSH writes it (PROTOCOL.key), so that any ssh reads it. */
import { randomBytes } from 'node:crypto'
import { newKeyPair } from '../domain/key-pair.js'
import { sshString, uint32 } from '../domain/ssh-wire.js'

export interface SshKeyPair {
  /** `ssh-ed25519 AAAA…` */
  readonly publicKey: string
  /** The content of a file that only its owner may read. */
  readonly privateKey: string
}

const TYPE = 'ssh-ed25519'
const BLOCK = 8

export async function newSshKey(): Promise<SshKeyPair> {
  const { x, d } = (await newKeyPair('ed25519')).privateKey.export({ format: 'jwk' })
  const [point, seed] = [Buffer.from(x as string, 'base64url'), Buffer.from(d as string, 'base64url')]
  const blob = Buffer.concat([sshString(TYPE), sshString(point)])
  const check = randomBytes(4)
  const secret = Buffer.concat([check, check, sshString(TYPE), sshString(point), sshString(Buffer.concat([seed, point])), sshString('curfew')])
  const padding = Buffer.from(Array.from({ length: (BLOCK - (secret.length % BLOCK)) % BLOCK }, (_, i) => i + 1))
  // No cipher, no passphrase: it is good for nothing without the certificate, and gone with the command.
  const key = Buffer.concat([
    Buffer.from('openssh-key-v1\0', 'latin1'),
    sshString('none'),
    sshString('none'),
    sshString(''),
    uint32(1),
    sshString(blob),
    sshString(Buffer.concat([secret, padding])),
  ])
  const lines = key.toString('base64').replace(/(.{70})(?!$)/g, '$1\n')
  return {
    publicKey: `${TYPE} ${blob.toString('base64')}`,
    privateKey: `-----BEGIN OPENSSH PRIVATE KEY-----\n${lines}\n-----END OPENSSH PRIVATE KEY-----\n`,
  }
}
