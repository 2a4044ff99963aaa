import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { gzipSync } from 'node:zlib'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { createOutbound, isPrivate, type OutboundOptions } from '../../src/clients/outbound.js'
import { CurfewError } from '../../src/domain/errors.js'

const never = new AbortController().signal
const servers: Server[] = []
let asked: string[] = []
afterEach(() => {
  asked = []
})
afterAll(() => {
  for (const server of servers) {
    server.closeAllConnections()
    server.close()
  }
})

/** A key server on loopback, which only `internal` reaches. */
async function serve(listener: RequestListener): Promise<string> {
  const server = createServer((request, response) => {
    asked.push(request.url ?? '')
    listener(request, response)
  })
  servers.push(server)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const reasonOf = async (work: Promise<unknown>): Promise<string> => {
  try {
    await work
    return 'accepted'
  } catch (error) {
    if (!(error instanceof CurfewError) || error.code !== 'unavailable') throw error
    return error.facts.reason ?? '?'
  }
}
const get = (url: string, options: OutboundOptions = { internal: true }) => reasonOf(createOutbound().getJson(url, options, never))
const answered = async (body: string | Buffer, headers: Record<string, string> = {}, status = 200) =>
  get(await serve((_request, response) => response.writeHead(status, headers).end(body)))

describe('addresses', () => {
  it.each(
    [
      ['0.0.0.0', '0.1.2.3', '10.0.0.1', '10.255.255.255', '100.64.0.1', '100.127.255.255', '127.0.0.1', '127.255.255.254', '169.254.169.254'],
      ['172.16.0.1', '172.31.255.255', '192.168.0.1', '198.18.0.1', '224.0.0.1', '255.255.255.255'],
      ['::', '::1', '0:0:0:0:0:0:0:1', '::127.0.0.1', 'fc00::1', 'fd12:3456::1', 'fe80::1', 'fe80::1%lo', 'fec0::1', 'ff02::1', 'fd00:ec2::254'],
      ['::ffff:127.0.0.1', '::FFFF:10.0.0.1', '::ffff:7f00:1', '0:0:0:0:0:ffff:7f00:1', '0:0:0:0:0:FFFF:169.254.169.254', '::ffff:a9fe:a9fe'],
      ['64:ff9b::7f00:1', '64:ff9b:1::1', '2002:7f00:1::', '2001::1'],
      ['', 'localhost', '127.1', '0x7f.1', '2130706433', '1.2.3.4 ', '127.0.0.1.'],
    ].flat(),
  )('H10 %j is private or no address', address => expect(isPrivate(address)).toBe(true))

  it.each([
    '1.1.1.1',
    '9.255.255.255',
    '11.0.0.1',
    '100.63.255.255',
    '100.128.0.1',
    '172.15.255.255',
    '172.32.0.1',
    '192.169.0.1',
    '::ffff:8.8.8.8',
    '2606:4700::1111',
  ])('H10 the twin: %s is public', address => expect(isPrivate(address)).toBe(false))
})

describe('the way out, before anything is sent', () => {
  const refusedUnasked = async (url: string) => {
    const names: string[] = []
    const outbound = createOutbound({
      lookup: async host => {
        names.push(host)
        return [{ address: '169.254.169.254', family: 4 }]
      },
    })
    return { reason: await reasonOf(outbound.getJson(url, {}, never)), names }
  }

  it.each([
    '127.0.0.1',
    '0x7f.1',
    '0177.0.0.1',
    '127.1',
    '2130706433',
    '0',
    '127.0.0.1.',
    '[::1]',
    '[::]',
    '[::ffff:127.0.0.1]',
    '[fe80::1]',
    '[fd00:ec2::254]',
    '１２７.0.0.1',
  ])('H10 https://%s is refused as an address, no name is asked', async host =>
    expect(await refusedUnasked(`https://${host}/keys`)).toEqual({ reason: 'address_refused', names: [] }),
  )

  it.each(['localhost', 'localhost.', 'metadata.google.internal', 'metadata', 'instance-data.ec2.internal', 'keys.example'])(
    'H10 https://%s is refused for what its name means',
    async host => expect(await refusedUnasked(`https://${host}/keys`)).toEqual({ reason: 'address_refused', names: [host] }),
  )

  it('H10 the usual resolver is under the same rule: localhost with a dot is this host', async () => {
    expect(await get('https://localhost./keys', {})).toMatch(/^(address_refused|name_unresolved)$/)
  })

  it('H11 every answer is checked: one private among public ones refuses the name', async () => {
    for (const list of [
      ['1.1.1.1', '10.0.0.1'],
      ['10.0.0.1', '1.1.1.1'],
      ['2606:4700::1111', '::1'],
      ['1.1.1.1', 'nonsense'],
    ]) {
      const outbound = createOutbound({ lookup: async () => list.map(address => ({ address, family: address.includes(':') ? 6 : 4 })) })
      expect(await reasonOf(outbound.getJson('https://keys.example/', {}, never))).toBe('address_refused')
    }
  })

  it('H11 a name is asked once and its answer pinned: a second answer would go elsewhere', async () => {
    const url = await serve((_request, response) => response.end('{"keys":[]}'))
    let count = 0
    // The second answer is a place where nobody listens (TEST-NET-1).
    const outbound = createOutbound({ lookup: async () => [{ address: count++ === 0 ? '127.0.0.1' : '192.0.2.1', family: 4 }] })
    const named = url.replace('127.0.0.1', 'keys.example')
    expect(await outbound.getJson(named, { internal: true }, never)).toEqual({ keys: [] })
    expect(count).toBe(1)
  })

  it('a name without an answer, and one whose resolver fails, are unresolved', async () => {
    for (const lookup of [async () => [], () => Promise.reject(new Error('SERVFAIL'))])
      expect(await reasonOf(createOutbound({ lookup }).getJson('https://keys.example/', {}, never))).toBe('name_unresolved')
  })

  it('H14 a resolver that never answers holds nobody longer than 3 s, nor longer than the caller waits', async () => {
    const outbound = createOutbound({ lookup: () => new Promise(() => {}) })
    const before = performance.now()
    expect(await reasonOf(outbound.getJson('https://keys.example/', {}, AbortSignal.timeout(50)))).toBe('unreachable')
    expect(performance.now() - before).toBeLessThan(1_500)
    expect(await reasonOf(outbound.getJson('https://keys.example/', {}, never))).toBe('unreachable')
    expect(performance.now() - before).toBeLessThan(6_000)
  })

  it('H10 http and names of users are refused; internal admits http', async () => {
    const url = await serve((_request, response) => response.end('{}'))
    expect(await get(url, {})).toBe('https_required')
    expect(await get(url.replace('http:', 'ftp:'), {})).toBe('https_required')
    expect(await get(url.replace('http://', 'http://user:word@'))).toBe('url_refused')
    expect(asked).toEqual([])
    expect(await get(url)).toBe('accepted')
  })
})

describe('the answer', () => {
  it('the twin of every case: strict JSON with status 200', async () => {
    const url = await serve((request, response) =>
      response.end(JSON.stringify({ encoding: request.headers['accept-encoding'], cookie: request.headers.cookie ?? null })),
    )
    expect(await createOutbound().getJson(url, { internal: true }, never)).toEqual({ encoding: 'identity', cookie: null })
  })

  it.each([301, 302, 303, 307, 308])('H12 a redirect (%i) is not followed', async status => {
    const target = await serve((_request, response) => response.end('{}'))
    expect(await answered('{}', { location: `${target}/elsewhere` }, status)).toBe('redirected')
    expect(asked).not.toContain('/elsewhere')
  })

  it.each([201, 204, 400, 404, 500, 503])('H15 status %i is no answer', async status => {
    expect(await answered(status === 204 ? '' : '{}', {}, status)).toBe('status_unexpected')
  })

  it('H14 a content-encoding is refused unread, a small bomb and a plain one', async () => {
    expect(await answered(gzipSync(Buffer.alloc(10_000_000, 0x20)), { 'content-encoding': 'gzip' })).toBe('content_encoding')
    expect(await answered('{}', { 'content-encoding': 'identity' })).toBe('content_encoding')
  })

  it.each([
    ['HTML', '<html></html>'],
    ['nothing', ''],
    ['half of it', '{"keys":['],
    ['two values', '{} {}'],
    ['a member twice', '{"keys":[],"keys":[]}'],
    ['a member twice in another spelling', '{"keys":[],"\\u006beys":[]}'],
    ['a byte-order mark', '\ufeff{}'],
    ['what is not UTF-8', Buffer.from([0x22, 0xff, 0x22])],
    ['nesting of 9', `${'['.repeat(9)}${']'.repeat(9)}`],
    ['5,000 elements', `[${Array(5_000).fill(0)}]`],
  ])('H14 H15 %s is not the JSON that is accepted', async (_name, body) => expect(await answered(body)).toBe('not_json'))

  it('H14 the twin: nesting of 8, 4,000 elements, and a body just under 100 KiB', async () => {
    expect(await answered(`${'['.repeat(8)}${']'.repeat(8)}`)).toBe('accepted')
    expect(await answered(`[${Array(4_000).fill(0)}]`)).toBe('accepted')
    expect(await answered(JSON.stringify('x'.repeat(102_398)))).toBe('accepted')
  })

  it('H14 100 KiB and a byte, and 300 KB, are refused with and without a length', async () => {
    expect(await answered(JSON.stringify('x'.repeat(102_399)))).toBe('body_too_large')
    expect(await answered(JSON.stringify('x'.repeat(300_000)), { 'content-length': '300002' })).toBe('body_too_large')
    expect(await answered(JSON.stringify('x'.repeat(300_000)), { 'transfer-encoding': 'chunked' })).toBe('body_too_large')
  })

  it('H14 an endless body is cut at its size, not at the deadline', async () => {
    const url = await serve((_request, response) => {
      const more = () => {
        while (!response.destroyed && response.write('x'.repeat(16_384)));
      }
      response.on('drain', more)
      more()
    })
    const before = performance.now()
    expect(await get(url)).toBe('body_too_large')
    expect(performance.now() - before).toBeLessThan(3_000)
  })

  it.each([
    ['drips', (response: { write(text: string): unknown }) => response.write(' ')],
    ['is silent after its head', () => {}],
  ])('H14 a body that %s ends at 3 s', async (_name, drip) => {
    const url = await serve((_request, response) => {
      response.writeHead(200).flushHeaders()
      const timer = setInterval(() => drip(response), 100)
      response.on('close', () => clearInterval(timer))
    })
    const before = performance.now()
    expect(await get(url)).toBe('unreachable')
    const took = performance.now() - before
    expect(took).toBeGreaterThan(2_500)
    expect(took).toBeLessThan(5_000)
  })

  it('H14 a server that never answers is left when the caller leaves, and a port without one is unreachable', async () => {
    const url = await serve(() => {})
    const before = performance.now()
    expect(await reasonOf(createOutbound().getJson(url, { internal: true }, AbortSignal.timeout(50)))).toBe('unreachable')
    expect(performance.now() - before).toBeLessThan(1_500)
    expect(await get('http://127.0.0.1:1/')).toBe('unreachable')
  })

  it('quotes nothing of what was received', async () => {
    const url = await serve((_request, response) => response.end('a-secret-of-theirs'))
    const error = await createOutbound()
      .getJson(url, { internal: true }, never)
      .catch(e => e as CurfewError)
    expect(JSON.stringify([(error as CurfewError).message, (error as CurfewError).facts])).not.toContain('a-secret-of-theirs')
  })
})
