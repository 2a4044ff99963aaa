/** How the command line fails: exit codes, one error shape, what is tried again, and what never reaches stderr. */

import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { decodeJwt } from 'jose'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { exitOf } from '../../../src/cli/exit.js'
import { card, duration, plain, redact, table } from '../../../src/cli/output.js'
import { type Desk, desk } from './desk.js'
import type { Seen } from './fake-broker.js'

let at: Desk
beforeEach(async () => {
  at = await desk()
})
afterEach(() => at.close())

const token = (...flags: string[]) => at.type('token', 'demo/orders-bearer', '--id-token-file', at.evidenceFile, ...flags)
const opening = (s: Seen) => s.path === '/v1/tasks'
const answers = (status: number, code?: string, more: Record<string, unknown> = {}) =>
  at.broker.faults.push({ when: opening, times: 99, status, body: { ...(code === undefined ? {} : { code, detail: 'as it was told' }), ...more } })
const opened = () => at.broker.seen.filter(opening).length

describe('exit codes (ux.md 3.2)', () => {
  test.each([
    [400, 'malformed', 2],
    [401, 'attestation_refused', 3],
    [401, 'attestation_stale', 3],
    [401, 'proof_refused', 3],
    [403, 'policy_denied', 4],
    [403, 'forbidden', 4],
    [403, 'approval_needed', 5],
    [422, 'capability_unknown', 6],
    [422, 'target_unknown', 6],
    [409, 'task_ended', 6],
    [404, 'not_found', 6],
    [409, 'conflict', 11],
  ])('%i %s is exit %i, and is asked once', async (status, code, exit) => {
    answers(status, code)
    const told = await token()
    expect(told.exit).toBe(exit)
    expect(told.out).toBe('')
    expect(told.err).toContain(`error[${code}] as it was told\n`)
    expect(opened()).toBe(1)
  })

  test.each([
    [429, 'rate_limited', 7],
    [502, 'engine_failed', 9],
    [503, 'unavailable', 9],
  ])('%i %s is exit %i, after four more tries', async (status, code, exit) => {
    answers(status, code)
    expect((await token()).exit).toBe(exit)
    expect(opened()).toBe(5)
  })

  test('who names a capability that does not exist is told where they stand', async () => {
    answers(422, 'capability_unknown')
    expect((await token()).err).toMatch(/^ +try +curfew caps$/m)
  })

  test.each([
    [{ a: ['x', 'y'], b: {}, c: [] }, /^a {2}x, y\nb {2}-\nc {2}-$/],
    [{ a: { n: 1, m: 'z' }, bcd: [{ x: 1 }] }, /^a {4}n=1, m=z\nbcd {2}\[\{"x":1\}\]$/],
    [{ a: true, b: null, c: 'a\u001bb' }, /^a {2}true\nc {2}a[^\u001b]*b$/],
  ])('a card says lists and pairs in words: %j', (fields, says) => expect(card(fields)).toMatch(says))

  test('a nonce is fetched by going back once; a server that is content with none is asked no third time, and one that gives none not even a second (RFC 9449)', async () => {
    const demand = { 'WWW-Authenticate': 'DPoP error="use_dpop_nonce", algs="ES256 RS256"' }
    const fault = (headers: Record<string, string>) =>
      at.broker.faults.push({ when: opening, times: 99, status: 401, body: { code: 'proof_refused', reason: 'nonce_required' }, headers })
    fault({ ...demand, 'DPoP-Nonce': 'of-the-server' })
    expect((await token()).exit).toBe(3)
    const sent = at.broker.seen.filter(opening).map(s => decodeJwt(s.headers.dpop as string))
    expect(sent.map(p => p.nonce)).toEqual([undefined, 'of-the-server'])
    expect(new Set(sent.map(p => p.jti)).size).toBe(2)
    at.broker.faults.length = 0
    at.broker.seen.length = 0
    fault(demand)
    expect((await token()).exit).toBe(3)
    expect(opened()).toBe(1)
  })

  test('what a proxy answers is judged by its status', () => {
    expect([401, 403, 404, 409, 413, 429, 500, 502, 504].map(status => exitOf(`http_${status}`, status))).toEqual([3, 4, 6, 11, 2, 7, 1, 9, 9])
  })

  test('a failure of ours has no text of the server: exit 1 with the request id', async () => {
    at.broker.faults.push({ when: opening, times: 99, status: 500, body: { type: 'about:blank', status: 500, request_id: 'req-abc' } })
    const { exit, err } = await token()
    expect(exit).toBe(1)
    expect(err).toContain('req-abc')
  })

  test.each(['../../tasks', 'tsk_1', ''])('a task that is called %j is no task of ours: exit 1, and it names no file', async id => {
    at.broker.faults.push({ when: opening, times: 99, status: 201, body: { task: { id, state: 'open' }, token: 'secret-of-it' } })
    const { exit, err } = await token()
    expect(exit).toBe(1)
    expect(err).toContain('its task has no id')
    expect(err).not.toContain('secret-of-it')
  })

  test('nobody there is exit 8', async () => {
    await at.broker.close()
    const { exit, err } = await token()
    expect(exit).toBe(8)
    expect(err).toContain('error[unreachable]')
    expect(err).toContain('ECONNREFUSED')
  })

  test('what is no Curfew is exit 1, and is not quoted', async () => {
    at.broker.faults.push({ when: s => s.path.startsWith('/.well-known'), times: 99, status: 200, body: '<html>canary-page</html>' })
    const { exit, err } = await token()
    expect(exit).toBe(1)
    expect(err).not.toContain('canary-page')
  })

  test.each([
    [['token']],
    [['token', 'demo/orders-bearer', '--ttl', 'soon']],
    [['token', 'Demo Orders']],
    [['nope']],
    [['revoke', '--task', 'tsk_1']],
    [['revoke', '--task', 'tsk_1', '--identity', 'x', '--reason', 'r']],
    [['show', 'crd_1']],
    [['list', '--limit', '0']],
    [['list', '--state', 'odd']],
    [['--nope']],
  ])('%j is a usage error: exit 2, and nothing is sent', async argv => {
    const { exit, out } = await at.type(...argv)
    expect({ exit, out }).toEqual({ exit: 2, out: '' })
    expect(at.broker.seen).toEqual([])
  })
})

describe('the error shape (ux.md 3.3)', () => {
  test('a denial names the nearest rule, the claim that differs, who one is and what to do', async () => {
    at.broker.allowed = () => false
    const { exit, err } = await token()
    expect(exit).toBe(4)
    expect(err.replace(/dec_\w+/, 'dec_X')).toBe(
      [
        'error[policy_denied] no rule permits this workload to use demo/orders-bearer',
        '  nearest rule   ci-orders-main   (3 of 4 conditions hold)',
        `  differs        ref   your token says "refs/pull/88/merge"   (the rule's value is shown to admins)`,
        '  you are        github:repository_id=456789',
        '  reason         no_permit',
        '  try            ask with another ref',
        '  decision       dec_X',
        '  request        req-12345678',
        '',
      ].join('\n'),
    )
  })

  test('under --json it is one JSON object on stderr, with the exit code', async () => {
    at.broker.allowed = () => false
    const { out, err } = await token('--json')
    expect(out).toBe('')
    expect(JSON.parse(err)).toMatchObject({
      code: 'policy_denied',
      status: 403,
      exit: 4,
      decision_id: expect.stringMatching(/^dec_/),
      nearest_rule: { id: 'ci-orders-main', held: 3, of: 4 },
      agent_action: 'request_access',
    })
  })

  test("another's text cannot drive a terminal", async () => {
    answers(403, 'policy_denied', { detail: '\u001b[2Jgone\u202e\r\nnext', next: '\u0007beep' })
    const { err } = await token()
    expect(err).not.toMatch(/[\u001b\u0007\r\u202e]/)
  })

  test('colour only where it is asked for', async () => {
    answers(403, 'policy_denied')
    expect((await token()).err).not.toContain('\u001b')
  })
})

describe('what is tried again', () => {
  test('a lost answer is asked for again under the same Idempotency-Key, with a fresh proof: one live credential', async () => {
    at.broker.faults.push({ when: s => s.path.endsWith('/credentials') && s.method === 'POST', times: 1, drop: 'after' })
    const { exit } = await token()
    expect(exit).toBe(0)
    const asked = at.broker.seen.filter(s => s.path.endsWith('/credentials') && s.method === 'POST')
    expect(new Set(asked.map(s => s.headers['idempotency-key'])).size).toBe(1)
    expect(new Set(asked.map(s => s.headers.dpop)).size).toBe(2)
    expect([...at.broker.credentials.values()].map(c => c.state).sort()).toEqual(['active', 'revoked'])
  })

  test('Retry-After is waited for when it is short, and told when it is long', async () => {
    at.broker.faults.push({ when: opening, times: 1, status: 503, headers: { 'Retry-After': '1' }, body: { code: 'unavailable', detail: 'later' } })
    const began = performance.now()
    expect((await token()).exit).toBe(0)
    expect(performance.now() - began).toBeGreaterThan(950)

    at.broker.seen.length = 0
    at.broker.faults.push({
      when: opening,
      times: 9,
      status: 429,
      headers: { 'Retry-After': '120' },
      body: { code: 'rate_limited', detail: 'too many', retry_after: 120 },
    })
    const { exit, err } = await token()
    expect(exit).toBe(7)
    expect(err).toContain('retry after    120 s')
    expect(opened()).toBe(1)
  })

  test('when the credential fails for good, the task that was opened for it is cancelled', async () => {
    at.broker.faults.push({
      when: s => s.path.endsWith('/credentials') && s.method === 'POST',
      times: 1,
      status: 403,
      body: { code: 'policy_denied', detail: 'no' },
    })
    expect((await token()).exit).toBe(4)
    expect([...at.broker.tasks.values()].map(t => t.view.state)).toEqual(['cancelled'])
  })
})

describe('where evidence goes', () => {
  test('a server that calls itself by another name gets none, unless that name was expected', async () => {
    // Not this machine's loopback by name: what `isLoopback` trusts is exactly the point here.
    const { brokerAt } = await import('../../../src/cli/http.js')
    const real = globalThis.fetch
    globalThis.fetch = async () => new Response(JSON.stringify({ issuer: 'https://victim.example' }))
    try {
      const signal = new AbortController().signal
      await expect(brokerAt({ url: 'https://evil.example' }).issuer(signal)).rejects.toMatchObject({ exit: 3, problem: { code: 'issuer_mismatch' } })
      await expect(brokerAt({ url: 'https://inner.example', issuer: 'https://victim.example' }).issuer(signal)).resolves.toBe('https://victim.example')
      await expect(brokerAt({ url: 'https://victim.example/' }).issuer(signal)).resolves.toBe('https://victim.example')
    } finally {
      globalThis.fetch = real
    }
  })

  test('plain http is for this machine only', async () => {
    expect((await token('--server', 'http://broker.example:8787')).err).toContain('plain http')
    expect((await token('--server', 'ftp://x')).exit).toBe(2)
    expect((await token('--server', 'https://user:pw@broker.example')).exit).toBe(2)
  })

  test('redirects are not followed', async () => {
    const thief = createServer((_req, res) => res.end('{}'))
    await new Promise<void>(resolve => thief.listen(0, '127.0.0.1', resolve))
    let stolen = 0
    thief.on('request', () => stolen++)
    at.broker.faults.push({
      when: opening,
      times: 9,
      status: 307,
      headers: { Location: `http://127.0.0.1:${(thief.address() as AddressInfo).port}/v1/tasks` },
      body: {},
    })
    const { exit, err } = await token()
    thief.close()
    expect({ exit, stolen }).toEqual({ exit: 8, stolen: 0 })
    expect(err).toContain('it redirects')
    expect(opened()).toBe(1)
  })

  test('an operator token that is none is not sent', async () => {
    at.env = { ...at.env, CURFEW_OPERATOR_TOKEN: 'some-other-secret' }
    const { exit, err } = await at.type('list')
    expect(exit).toBe(2)
    expect(err).not.toContain('some-other-secret')
    expect(at.broker.seen).toEqual([])
  })
})

describe('canaries (ux.md 13.3)', () => {
  test('whatever fails, no secret reaches stderr, even when a server echoes it', async () => {
    at.env = { ...at.env, CURFEW_OPERATOR_TOKEN: at.broker.operatorToken }
    const evidence = await at.evidence()
    at.broker.faults.push({
      when: opening,
      times: 1,
      status: 403,
      body: { code: 'policy_denied', detail: `you sent ${evidence}`, next: `use ${at.broker.operatorToken}`, identity: evidence },
    })
    const told = [
      await token(),
      await token('--json'),
      await at.type('why', 'demo/orders-ro', '--id-token-file', at.evidenceFile),
      await at.type('list'),
      await at.type('complete', '--mine'),
    ]
    for (const { err } of told) for (const canary of [...at.canaries, evidence]) expect(err).not.toContain(canary)
    // Its passing twin: the one intended channel.
    expect(told[1]?.out).toContain(at.broker.offers.get('demo/orders-bearer')?.secret.token as string)
  })
})

describe('text', () => {
  test('durations, tables, redaction', () => {
    expect([0, 41.3, 60, 859, 900, 3_661, 86_400].map(duration)).toEqual(['0 s', '41 s', '1m', '14m19s', '15m', '1h1m1s', '24h'])
    expect(
      table(
        ['id', 'n'],
        [
          ['a', 1],
          ['bbbb', null],
        ],
      ),
    ).toBe('ID    N\na     1\nbbbb  -')
    expect(plain('a\u0000b\u2028c')).toBe('a?b?c')
    expect(redact('postgres://u:pw@h eyJhbGciOi.eyJzdWIi.abc curfew_operator_0123456789abcdefghij')).toBe('postgres://u:[secret]@h [token] [token]')
  })

  test('flags say times as people do', async () => {
    const { seconds } = await import('../../../src/cli/options.js')
    expect(['20s', '20', '15m', '1h', '1h30m', '1m5s'].map(seconds)).toEqual([20, 20, 900, 3_600, 5_400, 65])
    for (const bad of ['', 's', '-5', '1.5h', '5 m', '1d']) expect(() => seconds(bad)).toThrow()
  })

  test('a CA file that cannot be read is a usage error', async () => {
    writeFileSync(join(at.home, 'x'), '')
    expect((await token('--ca-cert', join(at.home, 'none.pem'))).exit).toBe(2)
  })
})
