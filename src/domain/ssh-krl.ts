/** Owns the key revocation list that sshd reads (OpenSSH, PROTOCOL.krl): certificates by their key id, whichever authority signed them. */
import { type CredentialId, dashed } from './ids.js'
import { sshString, uint32, uint64 } from './ssh-wire.js'

const FORMAT_VERSION = 1
const SECTION_CERTIFICATES = 1
const CERT_KEY_ID = 0x23

/** As a Vault role with `key_id_format: "curfew-{{token_display_name}}"` writes it: Vault puts `token-` before the name of a token. */
export function sshKeyId(id: CredentialId): string {
  return `curfew-token-${dashed(id)}`
}

/** @param version increases with time; sshd looks at neither it nor at `at`. */
export function keyRevocationList(keyIds: readonly string[], version: number, at: Date): Buffer {
  const header = Buffer.concat([
    Buffer.from('SSHKRL\n\0', 'latin1'),
    uint32(FORMAT_VERSION),
    uint64(version),
    uint64(Math.floor(at.getTime() / 1000)),
    uint64(0), // flags: none is defined
    sshString(''), // reserved
    sshString('curfew'),
  ])
  // A section of no key id is refused by sshd (section 2.4), and a list that is refused lets nobody in.
  if (keyIds.length === 0) return header
  const ids = Buffer.concat([Buffer.from([CERT_KEY_ID]), sshString(Buffer.concat(keyIds.map(sshString)))])
  // An empty authority is every authority: our ids are ours alone, and the list outlives a change of keys.
  return Buffer.concat([header, Buffer.from([SECTION_CERTIFICATES]), sshString(Buffer.concat([sshString(''), sshString(''), ids]))])
}
