/** What we write for OpenSSH and read of it, held against what OpenSSH's own tools say where they are there. */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newId } from '../../src/domain/ids.js'
import { newKeyPair } from '../../src/domain/key-pair.js'
import { keyRevocationList, sshKeyId } from '../../src/domain/ssh-krl.js'
import { sshString, uint32, uint64 } from '../../src/domain/ssh-wire.js'
import { readPublicKey, readSshCertificate, SshKeyError } from '../../src/engines/ssh-certificate.js'

const keygen = ['/usr/bin/ssh-keygen', '/usr/local/bin/ssh-keygen'].find(existsSync)
const absent = keygen ? null : 'no ssh-keygen is installed'
if (absent && process.env.CURFEW_REQUIRE_REAL) throw new Error(`${absent}, and this run demands the real parts`)

const AT = new Date('2026-11-01T00:00:00Z')

describe('a key revocation list', () => {
  it('is written to the letter of the format', () => {
    const hex = keyRevocationList(['a', 'bc'], 7, AT).toString('hex')
    const string = (text: string) => Buffer.from(text).length.toString(16).padStart(8, '0') + Buffer.from(text).toString('hex')
    expect(hex).toBe(
      [
        '5353484b524c0a00', // SSHKRL\n\0
        '00000001',
        '0000000000000007',
        (AT.getTime() / 1000).toString(16).padStart(16, '0'),
        '0000000000000000',
        string(''),
        string('curfew'),
        '01', // certificates
        '00000018',
        string(''), // of any authority
        string(''),
        '23', // by key id
        '0000000b',
        string('a') + string('bc'),
      ].join(''),
    )
  })
  it('without anything to name has no section', () => {
    expect(keyRevocationList([], 7, AT)).toHaveLength(8 + 4 + 8 + 8 + 8 + 4 + 4 + 6)
  })
})

describe.skipIf(absent !== null)(`by OpenSSH's own tools${absent ? ` (skipped: ${absent})` : ''}`, () => {
  let dir: string
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'curfew-ssh-'))
    for (const type of ['ed25519', 'ecdsa', 'rsa'])
      execFileSync(keygen as string, [
        '-q',
        '-t',
        type,
        ...(type === 'rsa' ? ['-b', '2048'] : []),
        '-N',
        '',
        '-C',
        `a comment of ${type}`,
        '-f',
        join(dir, type),
      ])
    execFileSync(keygen as string, ['-q', '-t', 'ed25519', '-N', '', '-f', join(dir, 'ca')])
  })
  afterAll(() => rmSync(dir, { recursive: true, force: true }))

  const read = (name: string) => readFileSync(join(dir, name), 'utf8')
  function certified(type: string, id: string, ...more: string[]): string {
    execFileSync(keygen as string, [
      '-q',
      '-s',
      join(dir, 'ca'),
      '-I',
      id,
      '-n',
      'deploy,backup',
      '-V',
      '20261101000000Z:20261101010000Z',
      ...more,
      join(dir, `${type}.pub`),
    ])
    return read(`${type}-cert.pub`)
  }

  it.each(['ed25519', 'ecdsa', 'rsa'])('a public key of type %s is read, and its comment dropped', type => {
    expect(readPublicKey(read(`${type}.pub`))).toBe(read(`${type}.pub`).split(' ').slice(0, 2).join(' '))
  })

  it.each(['ed25519', 'ecdsa', 'rsa'])('a certificate of type %s is read as it was made', type => {
    const line = certified(type, 'curfew-x', '-z', '18446744073709551615', '-O', 'clear', '-O', 'permit-pty', '-O', 'force-command=id -u')
    expect(readSshCertificate(line)).toEqual({
      publicKey: readPublicKey(read(`${type}.pub`)),
      isUser: true,
      serial: 18_446_744_073_709_551_615n,
      keyId: 'curfew-x',
      principals: ['deploy', 'backup'],
      validBefore: new Date('2026-11-01T01:00:00Z'),
      criticalOptions: { 'force-command': 'id -u' },
      extensions: { 'permit-pty': '' },
    })
  })

  it('a host certificate is told from a user’s', () => {
    expect(readSshCertificate(certified('ed25519', 'x', '-h')).isUser).toBe(false)
  })

  it('our list names the certificates that it names, and no other; an empty one names none', () => {
    const [mine, theirs] = [sshKeyId(newId('credential')), sshKeyId(newId('credential'))]
    writeFileSync(join(dir, 'mine.pub'), certified('ed25519', mine))
    writeFileSync(join(dir, 'theirs.pub'), certified('ed25519', theirs))
    const asked = (keyIds: string[], file: string) => {
      writeFileSync(join(dir, 'krl'), keyRevocationList(keyIds, 1, AT))
      return spawnSync(keygen as string, ['-Q', '-f', join(dir, 'krl'), join(dir, file)], { encoding: 'utf8' })
    }
    expect(asked([mine], 'mine.pub')).toMatchObject({ status: 1, stdout: expect.stringContaining('REVOKED') })
    expect(asked([mine], 'theirs.pub')).toMatchObject({ status: 0, stdout: expect.stringContaining('ok') })
    expect(asked([], 'mine.pub')).toMatchObject({ status: 0, stdout: expect.stringContaining('ok') })
    const many = Array.from({ length: 20_000 }, () => sshKeyId(newId('credential')))
    expect(asked([...many, mine], 'mine.pub').stdout).toContain('REVOKED')
    expect(asked(many, 'mine.pub').stdout).toContain('ok')
    // The plain key is not revoked: another certificate of it stays good.
    expect(asked([mine], 'ed25519.pub').stdout).toContain('ok')
  })

  it('our list is shown by ssh-keygen as what it is', () => {
    writeFileSync(join(dir, 'krl'), keyRevocationList(['curfew-a', 'curfew-b'], 7, AT))
    const shown = execFileSync(keygen as string, ['-Q', '-l', '-f', join(dir, 'krl')], { encoding: 'utf8' })
    expect(shown).toContain('# KRL version 7')
    expect(shown).toContain('id: curfew-a')
    expect(shown).toContain('id: curfew-b')
  })
})

const rsa = async (bits: number) => {
  const { n, e } = (await newKeyPair('rsa', { modulusLength: bits })).publicKey.export({ format: 'jwk' })
  const mpint = (b64: string) => Buffer.concat([Buffer.from([0]), Buffer.from(b64, 'base64url')])
  return `ssh-rsa ${Buffer.concat([sshString('ssh-rsa'), sshString(Buffer.from(e as string, 'base64url')), sshString(mpint(n as string))]).toString('base64')}`
}
const WEAK = await rsa(1_024)

describe('what a caller may have certified', () => {
  const ed25519 = (size = 32) => `ssh-ed25519 ${Buffer.concat([sshString('ssh-ed25519'), sshString(Buffer.alloc(size, 7))]).toString('base64')}`
  it('is one key, whole and strong enough', async () => {
    expect(readPublicKey(`${ed25519()} me@laptop\n`)).toBe(ed25519())
    expect(readPublicKey(await rsa(2_048))).toMatch(/^ssh-rsa /)
  })
  it.each([
    ['nothing', ''],
    ['two keys', `${ed25519()}\n${ed25519()}`],
    ['options before it', `command="id" ${ed25519()}`],
    ['an authority', `cert-authority ${ed25519()}`],
    ['a weak key', WEAK],
    ['a DSA key', `ssh-dss ${Buffer.concat([sshString('ssh-dss'), sshString('p'), sshString('q'), sshString('g'), sshString('y')]).toString('base64')}`],
    ['a key that calls itself otherwise', ed25519().replace('ssh-ed25519', 'ssh-rsa')],
    ['a short key', ed25519(31)],
    ['a key and something behind it', `ssh-ed25519 ${Buffer.concat([sshString('ssh-ed25519'), sshString(Buffer.alloc(32)), uint32(0)]).toString('base64')}`],
    ['a private key', '-----BEGIN OPENSSH PRIVATE KEY-----'],
    ['a length beyond the end', `ssh-ed25519 ${Buffer.concat([uint64(Number.MAX_SAFE_INTEGER), uint32(1)]).toString('base64')}`],
    ['a line that is too long', `${ed25519()} ${'x'.repeat(9_000)}`],
  ])('T67 is not %s', (_, line) => {
    expect(() => readPublicKey(line)).toThrow(SshKeyError)
  })
  it('T67 whatever is sent is a key, or an error of one kind', () => {
    fc.assert(
      fc.property(fc.constantFrom('ssh-ed25519', 'ssh-rsa', 'ssh-ed25519-cert-v01@openssh.com'), fc.uint8Array({ maxLength: 300 }), (type, bytes) => {
        const line = `${type} ${Buffer.concat([sshString(type), bytes]).toString('base64')}`
        for (const read of [readPublicKey, readSshCertificate]) {
          try {
            read(line)
          } catch (error) {
            expect(error).toBeInstanceOf(SshKeyError)
          }
        }
      }),
      { numRuns: 2_000 },
    )
  })
})
