/** `receipt`: the numbers as people read them, kept, and checked with the broker gone. */
import { chmodSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { generateKeyPair, SignJWT } from 'jose'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { claims, type Desk, desk } from './desk.js'

let at: Desk
beforeEach(async () => {
  at = await desk()
  at.env = { ...at.env, CURFEW_OPERATOR_TOKEN: at.broker.operatorToken }
})
afterEach(() => at.close())

async function revoked(capability = 'demo/orders-bearer'): Promise<{ revocation: string; receipt: string }> {
  const { out } = await at.type('token', capability, '--json', '--id-token-file', at.evidenceFile)
  const { task } = JSON.parse(out) as { task: string }
  const done = JSON.parse((await at.type('revoke', '--task', task, '--reason', 'INC-204', '--json')).out)
  return { revocation: done.revocation.id, receipt: done.receipt }
}

const golden = (text: string) =>
  text
    .replace(/([a-z]{3})_[0-9a-z]{26}/g, '$1_X')
    .replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?Z/g, 'DATE TZ')
    .replace(/\d\d:\d\d:\d\dZ/g, 'TZ')
    .replace(/[A-Za-z0-9_-]{43}/g, 'THUMBPRINT')
const file = (name = 'receipt.json') => join(at.home, name)
/** The broker's state and this machine's: what was remembered is gone. */
const elsewhere = () => {
  at.env = { ...at.env, XDG_STATE_HOME: join(at.home, 'elsewhere') }
}

describe('show', () => {
  test('numbers before words', async () => {
    const { revocation, receipt } = await revoked()
    at.broker.responder.guards = { applied: 12, of: 12 }
    const { exit, out, err } = await at.type('receipt', 'show', revocation)
    expect({ exit, err }).toEqual({ exit: 0, err: '' })
    expect(golden(out)).toBe(
      [
        'receipt        rcp_X of rev_X, as of DATE TZ',
        'selector       task=tsk_X',
        'reason         requested: INC-204',
        'by             operator opr_1',
        'refused since  DATE TZ',
        'guards         12/12 at seq 88121',
        'tasks          1 ended',
        'destroyed      1/1',
        'probed         1/1 (introspection 1)',
        'not probed     0',
        'exposed        nothing',
        'final          yes: nothing is left to do',
        'signed by      THUMBPRINT (remembered for https://curfew.example)',
        '',
      ].join('\n'),
    )
    expect((await at.type('receipt', 'show', receipt.toUpperCase(), '-o', 'name')).out).toBe(`${receipt}\n`)
    expect((await at.type('show', receipt)).out).toContain('not checked here: curfew receipt show')
  })

  test('what is exposed is named with its end', async () => {
    const { receipt } = await revoked('demo/legacy')
    const { out } = await at.type('receipt', 'show', receipt)
    expect(out).toMatch(/^guards +none, at seq 88121$/m)
    expect(golden(out)).toMatch(
      /destroyed +0\/1, 1 revoking\n.*\n.*\nexposed +crd_X demo\/legacy until TZ\nexposed until +DATE TZ\nfinal +no: read it again later\n/,
    )
  })

  test('--json: claims, the receipt itself, and the key', async () => {
    const { receipt } = await revoked()
    const told = JSON.parse((await at.type('receipt', 'show', receipt, '--json')).out)
    expect(told).toMatchObject({
      claims: { jti: receipt, final: true, credentials: { selected: 1, revoked: 1 } },
      key: { thumbprint: expect.stringMatching(/^[\w-]{43}$/) },
    })
    expect(told.receipt.split('.')).toHaveLength(3)
  })

  test('--save keeps it for the owner alone, and replaces nothing', async () => {
    const { receipt } = await revoked()
    const { exit, err } = await at.type('receipt', 'show', receipt, '--save', file())
    expect({ exit, err }).toEqual({ exit: 0, err: `saved: curfew receipt verify ${file()}\n` })
    expect(statSync(file()).mode & 0o777).toBe(0o600)
    const kept = readFileSync(file(), 'utf8')
    expect(Object.keys(JSON.parse(kept))).toEqual(['receipt', 'keys'])
    const again = await at.type('receipt', 'show', receipt, '--save', file())
    expect(again.exit).toBe(2)
    expect(again.err).toContain('is there already')
    expect(readFileSync(file(), 'utf8')).toBe(kept)
    expect(readdirSync(at.home).filter(name => name.includes('receipt'))).toEqual(['receipt.json'])
    expect((await at.type('receipt', 'show', receipt, '--save', join(at.home, 'svid.jwt', 'x'))).exit).toBe(2)
  })

  test('claims beside the receipt are not believed; a receipt of another key is exit 3', async () => {
    const { receipt } = await revoked()
    const { privateKey } = await generateKeyPair('ES256')
    const forged = await new SignJWT(claims({}, { final: true })).setProtectedHeader({ alg: 'ES256', typ: 'curfew-receipt+jwt', kid: 'x' }).sign(privateKey)
    at.broker.faults.push({
      when: s => s.path === `/v1/receipts/${receipt}`,
      times: 1,
      status: 200,
      body: { receipt: forged, claims: claims({}, { final: true }) },
    })
    const { exit, out, err } = await at.type('receipt', 'show', receipt)
    expect({ exit, out }).toEqual({ exit: 3, out: '' })
    expect(err).toContain('error[receipt_refused]')
  })

  test('exit 6 for an unknown one, 2 for another id', async () => {
    expect((await at.type('receipt', 'show', `rcp_${'0'.repeat(26)}`)).exit).toBe(6)
    expect((await at.type('receipt', 'show', `crd_${'0'.repeat(26)}`)).exit).toBe(2)
  })
})

describe('verify', () => {
  async function kept(): Promise<{ receipt: string; keys: { keys: unknown[] } }> {
    const { receipt } = await revoked()
    await at.type('receipt', 'show', receipt, '--save', file())
    return JSON.parse(readFileSync(file(), 'utf8')) as { receipt: string; keys: { keys: unknown[] } }
  }
  const verify = (...flags: string[]) => at.type('receipt', 'verify', file(), ...flags)

  test('needs no broker, and trusts the key that was remembered', async () => {
    await kept()
    await at.broker.close()
    at.env = { ...at.env, CURFEW_URL: undefined, CURFEW_OPERATOR_TOKEN: undefined }
    const { exit, out, err } = await verify()
    expect({ exit, err }).toEqual({ exit: 0, err: '' })
    expect(golden(out)).toMatch(
      /final +yes: nothing is left to do\nsignature +ES256, curfew-receipt\+jwt: holds\nsigned by +THUMBPRINT\ntrust +key remembered for https:\/\/curfew.example\nissued by +https:\/\/curfew.example\n$/,
    )
  })

  test('elsewhere the key is known from the file alone: said so, exit 3; with --keys it is trusted', async () => {
    const { keys } = await kept()
    elsewhere()
    const { exit, out, err } = await verify('--json')
    expect(exit).toBe(3)
    expect(JSON.parse(out)).toMatchObject({ verified: true, trusted: false, trust: 'file', key: { thumbprint: expect.any(String) }, claims: { final: true } })
    expect(err).toContain('name keys that you trust with --keys')
    expect((await verify()).out).toMatch(/trust +none: the key is known from the file alone\n/)
    writeFileSync(file('trusted.json'), JSON.stringify(keys))
    const trusted = await verify('--keys', file('trusted.json'), '--json')
    expect(trusted.exit).toBe(0)
    expect(JSON.parse(trusted.out)).toMatchObject({ trusted: true, trust: 'keys' })
  })

  test('one byte of the receipt altered, whichever: exit 3', async () => {
    const { receipt, keys } = await kept()
    const others = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
    // The last character of a segment holds spare bits: another spelling of the same bytes is altered too.
    const ends = [...receipt].flatMap((c, i) => (c === '.' ? [i - 1] : [])).concat(receipt.length - 1)
    const places = [...new Set([...ends, ...Array.from({ length: 40 }, (_, i) => Math.floor((i * receipt.length) / 40))])]
    for (const i of places) {
      const c = receipt[i] as string
      for (const other of ends.includes(i) ? others.replace(c, '') : [others[(others.indexOf(c) + 1) % 64] as string]) {
        writeFileSync(file(), JSON.stringify({ receipt: receipt.slice(0, i) + other + receipt.slice(i + 1), keys }))
        const { exit, out } = await verify()
        expect({ i, other, exit, out }).toEqual({ i, other, exit: 3, out: '' })
      }
    }
  }, 60_000)

  test.each<[string, (saved: { receipt: string; keys: { keys: Record<string, unknown>[] } }) => unknown]>([
    ['a key altered', s => ({ ...s, keys: { keys: s.keys.keys.map(k => ({ ...k, x: `A${String(k.x).slice(1)}B`.slice(1) })) } })],
    ['no such key', s => ({ ...s, keys: { keys: s.keys.keys.map(k => ({ ...k, kid: 'other' })) } })],
    ['no keys', s => ({ receipt: s.receipt })],
    ['a member more', s => ({ ...s, note: 1 })],
    ['a list', s => [s]],
    ['a private key among them', s => ({ ...s, keys: { keys: s.keys.keys.map(k => ({ ...k, d: 'AAAA' })) } })],
  ])('%s: exit 3', async (_name, altered) => {
    const saved = await kept()
    chmodSync(file(), 0o600)
    writeFileSync(file(), JSON.stringify(altered(saved as never)))
    const { exit, out, err } = await verify()
    expect({ exit, out }).toEqual({ exit: 3, out: '' })
    expect(err).toContain('error[receipt_refused]')
  })

  test('a member twice is refused, whichever a parser would take', async () => {
    const { receipt, keys } = await kept()
    writeFileSync(file(), `{"receipt":"x","receipt":${JSON.stringify(receipt)},"keys":${JSON.stringify(keys)}}`)
    expect((await verify()).exit).toBe(3)
  })

  test('keys of another are exit 3; a file that is not there exit 2', async () => {
    await kept()
    await at.broker.responder.newKeys()
    writeFileSync(file('other.json'), await (await fetch(`${at.broker.url}/v1/receipt-keys`)).text())
    expect((await verify('--keys', file('other.json'))).exit).toBe(3)
    expect((await at.type('receipt', 'verify', file('none.json'))).exit).toBe(2)
    expect((await verify('--keys', file('none.json'))).exit).toBe(2)
  })

  test('another type of token, however well signed, is no receipt', async () => {
    const { privateKey, publicKey } = await generateKeyPair('ES256', { extractable: true })
    const { exportJWK } = await import('jose')
    const keys = { keys: [{ ...(await exportJWK(publicKey)), kid: 'k', use: 'sig', alg: 'ES256' }] }
    const signed = (typ: string, body: Record<string, unknown>) => new SignJWT(body).setProtectedHeader({ alg: 'ES256', typ, kid: 'k' }).sign(privateKey)
    writeFileSync(file('keys.json'), JSON.stringify(keys))
    const exitOf = async (receipt: string) => {
      writeFileSync(file(), JSON.stringify({ receipt, keys }))
      return (await verify('--keys', file('keys.json'))).exit
    }
    expect(await exitOf(await signed('curfew-receipt+jwt', claims({}, { final: true })))).toBe(0)
    expect(await exitOf(await signed('at+jwt', claims({}, { final: true })))).toBe(3)
    expect(await exitOf(await signed('curfew-receipt+jwt', { ...claims({}), final: 'yes' }))).toBe(3)
    expect(await exitOf(await signed('curfew-receipt+jwt', { ...claims({ selected: -1 }) }))).toBe(3)
  })
})

describe('the keys of a server', () => {
  const pins = () => join(at.home, '.local', 'state', 'curfew', 'receipt-keys')

  test('are remembered for the owner alone; new ones beside known ones are added', async () => {
    const { receipt } = await revoked()
    await at.type('receipt', 'show', receipt)
    const [name] = readdirSync(pins())
    expect(statSync(join(pins(), name as string)).mode & 0o777).toBe(0o600)
    expect(JSON.parse(readFileSync(join(pins(), name as string), 'utf8'))).toEqual({ server: 'https://curfew.example', thumbprints: [expect.any(String)] })
  })

  test('that are all new are told, and not taken for the old ones', async () => {
    const { receipt } = await revoked()
    await at.type('receipt', 'show', receipt)
    await at.broker.responder.newKeys()
    const { exit, out, err } = await at.type('receipt', 'show', receipt, '--save', file())
    expect(exit).toBe(0)
    expect(out).toContain('(not the keys remembered for this server)')
    expect(err).toContain('has none of the keys that it had before')
    const verified = await at.type('receipt', 'verify', file())
    expect(verified.exit).toBe(3)
    expect(verified.out).toContain('none: not a key remembered for https://curfew.example')
  })

  test('of a receipt that names another server are not left under its name', async () => {
    const { receipt } = await revoked()
    at.broker.faults.push({ when: s => s.path.startsWith('/.well-known'), times: 9, status: 200, body: { issuer: 'https://other.example' } })
    const { exit, err } = await at.type('receipt', 'show', receipt)
    expect(exit).toBe(0)
    expect(err).toContain('keys not remembered: the receipt is of https://curfew.example')
    expect(existsSync(pins())).toBe(false)
  })
})
