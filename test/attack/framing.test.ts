/** Owns messages that two parsers read differently (H07): one answer and the end, and nothing that was hidden in them is done. */
import type { RequestListener, Server } from 'node:http'
import type { Express } from 'express'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Listener, listen } from '../../src/http/listen.js'
import { caller, type Held } from '../caller.js'
import { type House, makeHouse } from '../house.js'
import { type Heard, say } from './wire.js'

let house: House
let listener: Listener
let server: Server
let held: Held
/** A whole order of an operator, as it would stand behind or inside of another message. */
let hidden: string
const HIDDEN = 'hidden-in-another'
/** The rows of one message must not be taken for another's. */
let messages = 0

beforeAll(async () => {
  house = await makeHouse()
  held = await (await caller(house)).opened()
  const app: RequestListener = (req, res) => {
    server = (req.socket as unknown as { server: Server }).server
    house.http(req, res)
  }
  listener = await listen(app as Express, '127.0.0.1:0', 100)
  const order = JSON.stringify({ selector: { task: held.task } })
  hidden = [
    'POST /v1/revocations HTTP/1.1',
    'Host: curfew.example',
    `Authorization: Bearer ${await house.operator('admin')}`,
    `X-Request-ID: ${HIDDEN}`,
    'Content-Type: application/json',
    `Content-Length: ${order.length}`,
    '',
    order,
  ].join('\r\n')
})
afterAll(async () => {
  await listener?.close()
  await house?.close()
})

const HOST = 'Host: curfew.example\r\n'
const TYPE = 'Content-Type: application/json\r\n'
/** Refused for what it says (`no such member`), when it is read at all. */
const outer = (headers: string, body = '', { host = HOST, line = 'POST /v1/tasks HTTP/1.1\r\n' } = {}) =>
  `${line}${host}${TYPE}X-Request-ID: outer-${String(++messages).padStart(5, '0')}\r\n${headers}\r\n${body}`
const chunked = (body: string) => outer('Transfer-Encoding: chunked\r\n', body)
const LAST = '0\r\n\r\n'
const BODY = '{"x":1}'
const CHUNK = `${BODY.length}\r\n${BODY}\r\n`

/** That nothing of it came about: the task that it would have ended goes on, and no row is of it. */
async function nothingHidden(): Promise<void> {
  expect(await house.app.store.tasks.get(held.task as never)).toMatchObject({ state: 'open' })
  expect((await house.app.store.audit.list({ limit: 500 })).filter(r => r.requestId === HIDDEN)).toEqual([])
}

const both = (headers: string) => () => outer(headers, LAST + hidden)
const length = (value: string, name = 'Content-Length:') => [`${name}${value}`, () => outer(`${name}${value}\r\n`, BODY + hidden)] as const
const size = (name: string, text: string) => [name, () => chunked(text + LAST + hidden)] as const

const REFUSED: readonly (readonly [string, () => string])[] = [
  ['CL.TE', both('Content-Length: 6\r\nTransfer-Encoding: chunked\r\n')],
  ['CL.TE, the body of a length', () => outer(`Content-Length: ${LAST.length + hidden.length}\r\nTransfer-Encoding: chunked\r\n`, LAST + hidden)],
  ['TE.CL', both('Transfer-Encoding: chunked\r\nContent-Length: 4\r\n')],
  ...[
    'xchunked',
    'chunked, identity',
    'identity',
    'identity, chunked',
    'gzip, chunked',
    'chunked, chunked',
    'chunked,',
    '"chunked"',
    'chunked;q=1',
    '\x0bchunked',
    'chunked\x00',
    'ch unked',
  ].map(te => [`Transfer-Encoding: ${JSON.stringify(te)}`, both(`Transfer-Encoding: ${te}\r\n`)] as const),
  ['TE.TE: chunked, then identity', both('Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n')],
  ['TE.TE: identity, then chunked', both('Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n')],
  ['TE.TE: chunked twice', both('Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n')],
  ['TE.TE: another name that folds into it', both('Transfer_Encoding: chunked\r\nTransfer-Encoding: xchunked\r\n')],
  ['chunked before HTTP/1.1', () => outer('Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n', LAST + hidden, { line: 'POST /v1/tasks HTTP/1.0\r\n' })],
  ['obs-fold', () => outer('X-Note: a\r\n b\r\nContent-Length: 0\r\n', hidden)],
  ['obs-fold before the length', () => outer(`Content-Length:\r\n ${BODY.length}\r\n`, BODY + hidden)],
  ['obs-fold before the coding', both('Transfer-Encoding:\r\n chunked\r\n')],
  ['a fold in the place of the first header', () => outer('Content-Length: 0\r\n', hidden, { line: 'POST /v1/tasks HTTP/1.1\r\n X: y\r\n' })],
  ['bare LF after a header', () => outer('X-Note: a\nContent-Length: 0\r\n', hidden)],
  ['bare LF that hides a length', () => outer(`X-Note: a\nContent-Length: ${hidden.length}\r\n`, hidden)],
  ['bare LF at the end of the headers', () => outer('Content-Length: 0\r\n', '').replace(/\r\n\r\n$/, '\r\n\n') + hidden],
  ['bare LF after the request line', () => outer('Content-Length: 0\r\n', hidden, { line: 'POST /v1/tasks HTTP/1.1\n' })],
  ['bare LF everywhere', () => outer('Content-Length: 0\r\n').replaceAll('\r\n', '\n') + hidden],
  ['bare CR in a header', () => outer('X-Note: a\rContent-Length: 5\r\nContent-Length: 0\r\n', hidden)],
  ['two Hosts', () => outer('Host: evil.example\r\nContent-Length: 0\r\n', hidden)],
  ['the same Host twice', () => outer(`${HOST}Content-Length: 0\r\n`, hidden)],
  ['no Host', () => outer('Content-Length: 0\r\n', hidden, { host: '' })],
  ...['a, b', 'a b', 'user@curfew.example', 'curfew.example/x', 'curfew.example:80:81', 'curfew.example#', '[::1', 'b\u00fccher.example'].map(
    host => [`Host: ${host}`, () => outer('Content-Length: 0\r\n', hidden, { host: `Host: ${host}\r\n` })] as const,
  ),
  ['two lengths, the same', () => outer(`Content-Length: ${BODY.length}\r\nContent-Length: ${BODY.length}\r\n`, BODY + hidden)],
  ['two lengths that differ', () => outer(`Content-Length: ${BODY.length}\r\nContent-Length: 0\r\n`, BODY + hidden)],
  ['two lengths that differ, the other way', () => outer(`Content-Length: 0\r\nContent-Length: ${hidden.length}\r\n`, hidden)],
  length(' 7, 7'),
  length(' +7'),
  length(' 0x7'),
  length(' 7 7'),
  length(' -7'),
  length(' 7.0'),
  length(' 7e0'),
  length(' 18446744073709551623'),
  length(''),
  length(' 7', 'Content-Length :'),
  length(' 7', 'Content-Length\t:'),
  ['a space before the colon of the coding', both('Transfer-Encoding : chunked\r\n')],
  ['NUL in a value', () => outer('X-Note: a\x00b\r\nContent-Length: 0\r\n', hidden)],
  ['NUL in a name', () => outer('X\x00Note: a\r\nContent-Length: 0\r\n', hidden)],
  ['a control character in a value', () => outer('X-Note: a\x01b\r\nContent-Length: 0\r\n', hidden)],
  ['a header without a colon', () => outer('X-Note\r\nContent-Length: 0\r\n', hidden)],
  ['a header without a name', () => outer(': x\r\nContent-Length: 0\r\n', hidden)],
  size('a chunk size of 0x7', `0x7\r\n${BODY}\r\n`),
  size('a chunk size with a space behind', `7 \r\n${BODY}\r\n`),
  size('a chunk size with a space before', ` 7\r\n${BODY}\r\n`),
  size('a chunk size of +7', `+7\r\n${BODY}\r\n`),
  size('a chunk size of -7', `-7\r\n${BODY}\r\n`),
  size('a chunk size beyond 64 bits', `10000000000000007\r\n${BODY}\r\n`),
  size('a chunk shorter than it says', `9\r\n${BODY}\r\n`),
  size('a chunk longer than it says', `3\r\n${BODY}\r\n`),
  size('a chunk without its end', `7\r\n${BODY}`),
  size('a chunk extension that ends with LF', `7;\n${BODY}\r\n`),
  size('a chunk extension whose quotes stay open', `7;a="b\r\n${BODY}\r\n`),
  size('a chunk extension with a bare CR', `7;a\rb\r\n${BODY}\r\n`),
  size('CR and something else after the size', `7\rX${BODY}\r\n`),
  ['LF after every chunk', () => chunked(`7\n${BODY}\n0\n\n${hidden}`)],
  ['a last chunk that goes on', () => chunked(`${CHUNK}0\r\nX${hidden}`)],
  ['a length among the trailers', () => chunked(`${CHUNK}0\r\nContent-Length: ${hidden.length}\r\n\r\n${hidden}`)],
  ['a trailer that ends with LF', () => chunked(`${CHUNK}0\r\nX-Note: a\n\r\n${hidden}`)],
  ['a last message, and one behind it', () => outer('Connection: close\r\nContent-Length: 0\r\n', hidden)],
  ['a message before HTTP/1.1, and one behind it', () => outer('Content-Length: 0\r\n', hidden, { line: 'POST /v1/tasks HTTP/1.0\r\n' })],
  ['another version', () => outer('Connection: keep-alive\r\nContent-Length: 0\r\n', hidden, { line: 'POST /v1/tasks HTTP/2.0\r\n' })],
  ['a tab in the request line', () => outer('Content-Length: 0\r\n', hidden, { line: 'POST\t/v1/tasks HTTP/1.1\r\n' })],
  ['a space in the path', () => outer('Content-Length: 0\r\n', hidden, { line: 'POST /v1/tasks x HTTP/1.1\r\n' })],
]

/** RFC 9110 and 9112 let these through in one way only: what is hidden is their body, and is read as such. */
const READ: readonly (readonly [string, () => string])[] = [
  ['a length in spaces (RFC 9110 section 5.5)', () => outer(`Content-Length:  ${hidden.length} \r\n`, hidden)],
  ['a length with leading zeros', () => outer(`Content-Length: 00${hidden.length}\r\n`, hidden)],
  ['another name that folds into the length', () => outer(`Content_Length: 0\r\nContent-Length: ${hidden.length}\r\n`, hidden)],
  ['a connection option that names the length', () => outer(`Connection: Content-Length\r\nContent-Length: ${hidden.length}\r\n`, hidden)],
  ['the coding in spaces and capitals', () => outer('Transfer-Encoding: \t Chunked \r\n', `${hidden.length.toString(16)}\r\n${hidden}\r\n${LAST}`)],
  ['a chunk extension (RFC 9112 section 7.1.1)', () => chunked(`${hidden.length.toString(16)};a="b"\r\n${hidden}\r\n${LAST}`)],
  ['a chunk size with leading zeros', () => chunked(`0000${hidden.length.toString(16).toUpperCase()}\r\n${hidden}\r\n${LAST}`)],
  ['a trailer', () => chunked(`${hidden.length.toString(16)}\r\n${hidden}\r\n0\r\nX-Note: a\r\n\r\n`)],
]

const status = (heard: Heard) => ({ statuses: heard.statuses, isClosed: heard.isClosed })

describe('H07 a message that two parsers read differently', () => {
  it.each(REFUSED)('%s: 400, once, and the connection ends; what stands behind it is not done', async (_name, bytes) => {
    expect(status(await say(listener.address, bytes(), true))).toEqual({ statuses: [400], isClosed: true })
    await nothingHidden()
  })

  it.each(READ)('%s: one message, one answer; what stands in its body is not done', async (_name, bytes) => {
    const heard = await say(listener.address, bytes(), false)
    expect(heard.statuses).toEqual([400])
    expect(heard.text).toMatch(/"reason":"not_json"/)
    await nothingHidden()
  })

  it('what we refuse ourselves, where the parser does not, is told by its field and stands in the audit log once', async () => {
    const heard = await say(
      listener.address,
      outer('Host: evil.example\r\nX-Request-ID: host-came-twice\r\nContent-Length: 0\r\n', hidden).replace(/X-Request-ID: outer-\d+\r\n/, ''),
      true,
    )
    expect(heard.text).toMatch(/"reason":"header_repeated"/)
    expect(heard.text).not.toContain('evil.example')
    const rows = (await house.app.store.audit.list({ limit: 500 })).filter(r => r.requestId === 'host-came-twice')
    expect(rows).toMatchObject([{ kind: 'request.refused', reason: 'header_repeated', data: { field: 'Host' } }])
  })

  it('the parser is the strict one', () => {
    expect((server as unknown as { insecureHTTPParser: boolean }).insecureHTTPParser).toBe(false)
    expect([...process.execArgv, process.env.NODE_OPTIONS ?? ''].join(' ')).not.toContain('insecure-http-parser')
  })

  it('the twin: the same, each written plainly, are read, and two in one go are two answers in their order', async () => {
    const plain = (body: string) => outer(`Content-Length: ${body.length}\r\n`, body)
    expect(status(await say(listener.address, plain(BODY), false))).toEqual({ statuses: [400], isClosed: false })
    expect((await say(listener.address, plain(BODY), false)).text).toMatch(/"reason":"unknown_field"|"reason":"invalid_field"/)
    expect((await say(listener.address, chunked(CHUNK + LAST), false)).text).toMatch(/"reason":"unknown_field"|"reason":"invalid_field"/)
    const livez = `GET /livez HTTP/1.1\r\n${HOST}\r\n`
    expect(status(await say(listener.address, livez + livez, false))).toEqual({ statuses: [200, 200], isClosed: false })
    // And what was hidden all the time would have been done, had anybody read it as a message of its own.
    const heard = await say(listener.address, plain(BODY) + hidden, false)
    expect(heard.statuses).toEqual([400, 202])
    expect(await house.app.store.tasks.get(held.task as never)).toMatchObject({ state: 'revoked' })
    expect((await house.app.store.audit.list({ limit: 500 })).filter(r => r.requestId === HIDDEN)).not.toEqual([])
  })
})
