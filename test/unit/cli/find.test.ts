/** `find`: what leaked is named, and never travels. */
import { createHash } from 'node:crypto'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Desk, desk, person, piped } from './desk.js'

let at: Desk
beforeEach(async () => {
  at = await desk()
  at.env = { ...at.env, CURFEW_OPERATOR_TOKEN: at.broker.operatorToken }
})
afterEach(() => at.close())

const digestOf = (text: string) => createHash('sha256').update(text).digest('base64url')
const asked = () => at.broker.seen.filter(s => s.path === '/v1/credentials:find').map(s => JSON.parse(s.text) as unknown)

/** A credential whose token is known to nobody but this test. */
async function leaked(token: string): Promise<string> {
  const { out } = await at.type('token', 'demo/orders-bearer', '--json', '--id-token-file', at.evidenceFile)
  const { credential } = JSON.parse(out) as { credential: string }
  at.broker.responder.digests.set(digestOf(token), credential)
  at.broker.seen.length = 0
  return credential
}
const everything = () => JSON.stringify(at.broker.seen)

test.each<[string, (jwt: string) => string]>([
  ['as it is', jwt => jwt],
  ['with a line break', jwt => `${jwt}\n`],
  ['between spaces', jwt => `\r\n  ${jwt} \t`],
  ['behind Bearer', jwt => `Bearer ${jwt}\n`],
  ['behind DPoP', jwt => `dpop  ${jwt}`],
  ['as a header', jwt => `Authorization: Bearer ${jwt}`],
  ['in quotes', jwt => `"${jwt}"`],
  ['broken over lines by a chat', jwt => jwt.replace(/(.{40})/g, '$1\n  ')],
])('a JWT %s: only its digest is sent', async (_name, pasted) => {
  const jwt = await at.evidence()
  const credential = await leaked(jwt)
  const { exit, out, err } = await at.typeWith(piped(pasted(jwt)), 'find', '-')
  expect({ exit, err }).toEqual({ exit: 0, err: '' })
  expect(out).toMatch(
    new RegExp(
      `^${credential} {2}active {2}demo/orders-bearer {2}github:repository_id=456789 task tsk_\\w+ {2}issued \\d\\d:\\d\\d:\\d\\d {2}ends \\d\\d:\\d\\d:\\d\\d\\n$`,
    ),
  )
  expect(asked()).toEqual([{ digest: digestOf(jwt) }])
  for (const part of jwt.split('.')) expect(everything()).not.toContain(part)
})

test('an opaque token that looks like a digest is hashed as well; a digest is said to be one', async () => {
  const token = 'canaryAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'.slice(0, 43)
  const credential = await leaked(token)
  expect((await at.typeWith(piped(token), 'find', '-', '-o', 'name')).out).toBe(`${credential}\n`)
  expect(everything()).not.toContain(token)
  const digest = digestOf(token)
  const hex = Buffer.from(digest, 'base64url').toString('hex')
  for (const [text, ...flags] of [[digest, '--digest'], [`${hex}\n`, '--digest'], [`sha256:${digest}`], [`SHA-256=${hex}`]]) {
    expect(await at.typeWith(piped(text as string), 'find', '-', '-o', 'name', ...flags)).toEqual({ exit: 0, out: `${credential}\n`, err: '' })
  }
  expect(asked()).toEqual(Array(5).fill({ digest }))
  const { exit, err } = await at.typeWith(piped(digest), 'find', '-')
  expect(exit).toBe(6)
  expect(err).toContain('if this is a digest already: curfew find - --digest')
})

test('unknown is exit 6, and the token is in no answer', async () => {
  const jwt = await at.evidence()
  const { exit, out, err } = await at.typeWith(piped(jwt), 'find', '-', '--json')
  expect({ exit, out }).toEqual({ exit: 6, out: '' })
  expect(JSON.parse(err)).toMatchObject({ code: 'not_found', exit: 6 })
  expect(err).not.toContain(jwt.slice(0, 20))
})

test('--json is the credential; an ended one says how and when', async () => {
  const credential = await leaked('opaque-token')
  expect(JSON.parse((await at.typeWith(piped('opaque-token'), 'find', '-', '--json')).out)).toMatchObject({ id: credential, state: 'active' })
  await at.type('revoke', '--credential', credential, '--reason', 'r')
  expect((await at.typeWith(piped('opaque-token'), 'find', '-')).out).toMatch(/ {2}revoked {2}.* {2}ended \d\d:\d\d:\d\d requested\n$/)
})

test('an id and a name that was made from one are shown', async () => {
  const credential = `crd_${'7qk2'.padEnd(26, '0')}`
  await leaked('x')
  const [row] = [...at.broker.credentials.values()]
  at.broker.credentials.set(credential, { ...(row as NonNullable<typeof row>), id: credential })
  for (const name of [credential, credential.toUpperCase(), `curfew_${credential.replace('_', '-')}`, `v-token-${credential.replace('_', '-')}-1700`]) {
    expect((await at.type('find', name)).out).toMatch(new RegExp(`^id +${credential}\n`))
    expect((await at.typeWith(piped(`${name}\n`), 'find', '-')).out).toMatch(new RegExp(`^id +${credential}\n`))
  }
  expect(asked()).toEqual([])
})

test('a token as an argument is refused, not sent and not repeated', async () => {
  const jwt = await at.evidence()
  const { exit, err } = await at.type('find', jwt)
  expect({ exit, asked: at.broker.seen }).toEqual({ exit: 2, asked: [] })
  expect(err).not.toContain(jwt.slice(0, 20))
  expect(err).toContain('pbpaste | curfew find -')
})

test.each([
  ['nothing', ''],
  ['blanks', ' \n'],
  ['two tokens', 'one two'],
])('%s on standard input is exit 2', async (_name, text) => {
  expect((await at.typeWith(piped(text), 'find', '-')).exit).toBe(2)
  expect(at.broker.seen).toEqual([])
})

test('what is no digest is not one for being called so', async () => {
  for (const text of ['abc', `${'A'.repeat(42)}!`, 'sha256:00']) expect((await at.typeWith(piped(text), 'find', '-', '--digest')).exit).toBe(2)
  expect((await at.type('find', '-')).exit).toBe(2)
})

test('at a terminal it says how to end the pasting', async () => {
  await leaked('opaque-token')
  expect((await at.typeWith(person('opaque-token'), 'find', '-')).err).toBe('paste it, then Ctrl-D\n')
})
