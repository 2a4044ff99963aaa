/** `list`, `show`, `revoke`, `signal`: what responders type. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { claims, type Desk, desk } from './desk.js'

let at: Desk
beforeEach(async () => {
  at = await desk()
  at.env = { ...at.env, CURFEW_OPERATOR_TOKEN: at.broker.operatorToken }
})
afterEach(() => at.close())

async function issued(capability = 'demo/orders-bearer'): Promise<{ task: string; credential: string }> {
  const { out } = await at.type('token', capability, '--json', '--id-token-file', at.evidenceFile)
  return JSON.parse(out) as { task: string; credential: string }
}

describe('curfew list', () => {
  test('a table for people, ids for pipes, rows for programs', async () => {
    const { credential } = await issued()
    const people = await at.type('list')
    expect(people.out.split('\n')[0]).toMatch(/^ID +STATE +CAPABILITY +IDENTITY +TASK +CLASS +ISSUED +ENDS$/)
    expect(people.out).toContain(credential)
    expect((await at.type('list', '-o', 'name')).out).toBe(`${credential}\n`)
    expect(JSON.parse((await at.type('list', '--json')).out)).toMatchObject([{ id: credential, state: 'active' }])
  })

  test('filters go to the broker, pages are put together', async () => {
    await issued()
    const template = [...at.broker.credentials.values()][0]
    for (let i = 0; i < 250; i++)
      at.broker.credentials.set(`crd_${i}`, { ...(template as NonNullable<typeof template>), id: `crd_${i}`, state: 'stuck', capability: 'x/y' })
    const { out } = await at.type(
      'list',
      '--state',
      'stuck',
      '--capability',
      'x/y',
      '--identity',
      'github:repository_id=456789',
      '--limit',
      '220',
      '-o',
      'name',
    )
    expect(out.trim().split('\n')).toHaveLength(220)
    expect(at.broker.seen.filter(s => s.path === '/v1/credentials').map(s => s.query)).toEqual([
      { identity: 'github:repository_id=456789', capability: 'x/y', state: 'stuck', limit: '200' },
      { identity: 'github:repository_id=456789', capability: 'x/y', state: 'stuck', limit: '20', after: 'crd_199' },
    ])
  })

  test('nothing is said so, on stderr', async () => {
    expect(await at.type('list')).toEqual({ exit: 0, out: '', err: 'none\n' })
  })

  test('without an operator token the holder sees its own task, and nobody else anything', async () => {
    const { task, credential } = await issued()
    at.env = { ...at.env, CURFEW_OPERATOR_TOKEN: undefined }
    expect((await at.type('list', '--task', task, '-o', 'name')).out).toBe(`${credential}\n`)
    expect((await at.type('show', task)).out).toContain('state')
    const { exit, err } = await at.type('list')
    expect(exit).toBe(3)
    expect(err).toContain('curfew operator add NAME --role responder')
  })
})

describe('curfew show', () => {
  test('finds by the kind of the id, in any case', async () => {
    const { task, credential } = await issued()
    expect((await at.type('show', credential)).out).toMatch(/^id +crd_/)
    expect((await at.type('show', credential.toUpperCase())).exit).toBe(0)
    expect(JSON.parse((await at.type('show', task, '--json')).out)).toMatchObject({ task: { id: task, state: 'open' } })
    expect((await at.type('show', 'dec_00000000000000000000000000')).exit).toBe(6)
  })
})

describe('curfew revoke', () => {
  test('a credential: refused when told, dead when probed, exit 0', async () => {
    const { credential } = await issued()
    const { exit, out, err } = await at.type('revoke', '--credential', credential, '--reason', 'INC-204')
    expect(exit).toBe(0)
    expect(err).toMatch(/^refused since \d\d:\d\d:\d\d\.\d\d\dZ, rev_\w+\nreceipt (rcp_\w+): curfew receipt show \1\n$/)
    expect(out).toBe('confirmed dead 1/1\n')
    expect(at.broker.credentials.get(credential)?.state).toBe('revoked')
    expect(JSON.parse(at.broker.seen.find(s => s.path === '/v1/revocations')?.text as string)).toEqual({ selector: { credential }, reason: 'INC-204' })
    const again = await at.type('revoke', '--credential', credential, '--reason', 'INC-204')
    expect({ exit: again.exit, out: again.out }).toEqual({ exit: 0, out: 'it held nothing alive\n' })
  })

  test('a task and an identity', async () => {
    const { task } = await issued()
    expect((await at.type('revoke', '--task', task, '--reason', 'r')).out).toBe('confirmed dead 1/1, 1 task ended\n')
    await issued()
    await issued()
    const all = await at.type('revoke', '--identity', 'github:repository_id=456789', '--now', '--reason', 'r', '--json')
    expect(all.exit).toBe(0)
    expect(JSON.parse(all.out)).toMatchObject({ confirmed_dead: 2, revoking: 0, stuck: 0, not_confirmed: [] })
  })

  test('never "dead" before it was seen dead: exit 10 when the wait is over', async () => {
    at.broker.deadAfterMs = null
    const { credential } = await issued()
    const { exit, out } = await at.type('revoke', '--credential', credential, '--reason', 'r', '--wait', '1s')
    expect(exit).toBe(10)
    expect(out).toBe(`confirmed dead 0/1, ${credential} revoking\n`)
  })

  test('stuck is told at once, with its failure: exit 10', async () => {
    at.broker.deadAfterMs = null
    const { credential } = await issued()
    setTimeout(() => Object.assign(at.broker.credentials.get(credential) ?? {}, { state: 'stuck', failure: 'the backend does not answer' }), 100)
    const began = performance.now()
    const { exit, out } = await at.type('revoke', '--credential', credential, '--reason', 'r', '--wait', '10s')
    expect(performance.now() - began).toBeLessThan(5_000)
    expect(exit).toBe(10)
    expect(out).toContain(`${credential} stuck: the backend does not answer`)
  })

  test('what nobody can end early is told with its end: exit 10', async () => {
    const { credential } = await issued('demo/legacy')
    const { exit, out } = await at.type('revoke', '--credential', credential, '--reason', 'r', '--wait', '5s')
    expect(exit).toBe(10)
    expect(out).toMatch(new RegExp(`^confirmed dead 0/1, ${credential} exposed until \\d\\d:\\d\\d:\\d\\dZ\\n$`))
  })

  test('a row that still stands behind the cut-off is not overlooked', async () => {
    at.broker.deadAfterMs = null
    await issued()
    const [row] = [...at.broker.credentials.values()]
    // As a scope's act leaves it: committed, not yet closed in its batch.
    at.broker.faults.push({
      when: s => s.path === '/v1/revocations' && s.method === 'POST',
      times: 1,
      status: 202,
      body: { revocation: { id: 'rev_0', reason: 'requested', refused_since: new Date().toISOString(), credentials: 0, tasks: 0 } },
    })
    at.broker.faults.push({ when: s => s.path === '/v1/receipts/rev_0', times: 99, status: 200, body: { claims: claims({ selected: 1 }) } })
    const { exit, out } = await at.type('revoke', '--identity', 'github:repository_id=456789', '--now', '--reason', 'r', '--wait', '1s')
    expect(exit).toBe(10)
    expect(out).toContain(`${row?.id} active`)
  })

  test('an unknown task is exit 6', async () => {
    expect((await at.type('revoke', '--task', 'tsk_0', '--reason', 'r')).exit).toBe(6)
  })
})

describe('curfew list by selectors', () => {
  test('what a list cannot be narrowed by is named, and nothing is asked', async () => {
    const { exit, err } = await at.type('list', '--owner', '@orders', '--label', 'team=data', '--task', 'tsk_1')
    expect(exit).toBe(2)
    expect(err).toContain('a list cannot be narrowed by --owner, --label, only by --task, --identity, --capability and --state')
    expect(at.broker.seen).toEqual([])
  })
})

describe('curfew signal approve, dismiss', () => {
  const held = (id: string) =>
    at.broker.signals.set(id, {
      id,
      source: 'edr',
      type: 'device.lost',
      severity: 'high',
      subject: { identity: 'a:b' },
      received_at: '2026-11-24T10:00:00.000Z',
      rule: 'high-revokes',
      act: { kind: 'revoke' },
      revocation: null,
      held: { credentials: 900, tasks: 30 },
      handled_at: null,
    })

  test('what waits for a person is listed, looked at, and let go or not', async () => {
    const [one, two] = [`sig_${'1'.repeat(26)}`, `sig_${'2'.repeat(26)}`]
    held(one)
    held(two)
    expect((await at.type('signal', 'list', '--held', '-o', 'name')).out).toBe(`${one}\n${two}\n`)
    expect((await at.type('signal', 'list', '--held')).out).toMatch(/WOULD END\n.* 900 credentials, 30 tasks\n/)
    expect((await at.type('signal', 'show', one)).out).toMatch(/held +credentials=900, tasks=30$/m)
    const approved = await at.type('signal', 'approve', one.toUpperCase(), '--reason', 'INC-204')
    expect(approved.exit).toBe(0)
    expect(approved.err).toMatch(/^approved: curfew receipt show rev_\w+\n$/)
    expect(JSON.parse(at.broker.seen.at(-1)?.text as string)).toEqual({ reason: 'INC-204' })
    const dismissed = await at.type('signal', 'dismiss', two, '--reason', 'a drill', '--json')
    expect(JSON.parse(dismissed.out)).toMatchObject({ id: two, revocation: null, release_reason: 'a drill' })
    expect(await at.type('signal', 'list', '--held')).toMatchObject({ exit: 0, out: '', err: 'none\n' })
  })

  test('exit 2 without a reason or with another id, 6 for an unknown signal', async () => {
    expect((await at.type('signal', 'approve', `sig_${'1'.repeat(26)}`)).exit).toBe(2)
    expect((await at.type('signal', 'approve', `crd_${'1'.repeat(26)}`, '--reason', 'r')).exit).toBe(2)
    expect((await at.type('signal', 'dismiss', `sig_${'1'.repeat(26)}`, '--reason', 'r')).exit).toBe(6)
  })
})

describe('curfew signal', () => {
  const flags = ['--source', 'edr', '--type', 'device.lost', '--severity', 'high', '--task', 'tsk_1']

  test('is signed over the bytes that are sent, by a secret from a file or the environment', async () => {
    const file = join(at.home, 'edr.key')
    writeFileSync(file, `${at.broker.signalSecret}\n`)
    const sent = await at.type('signal', 'send', ...flags, '--secret-file', file, '--detail', 'laptop 12')
    expect(sent.exit).toBe(0)
    expect(sent.out).toMatch(/rule +high-revokes/)
    at.env = { ...at.env, CURFEW_SIGNAL_SECRET: at.broker.signalSecret }
    expect((await at.type('signal', 'send', ...flags)).exit).toBe(0)
    expect(at.broker.seen.map(s => s.headers['curfew-source'])).toEqual(['edr', 'edr'])
    expect((await at.type('signal', 'list', '-o', 'name')).out.trim().split('\n')).toHaveLength(2)
    expect(JSON.stringify(at.broker.seen.map(s => s.text))).not.toContain(at.broker.signalSecret)
  })

  test('a wrong secret is exit 3, none is exit 2', async () => {
    at.env = { ...at.env, CURFEW_SIGNAL_SECRET: 'wrong-canary' }
    const { exit, err } = await at.type('signal', 'send', ...flags)
    expect(exit).toBe(3)
    expect(err).not.toContain('wrong-canary')
    at.env = { ...at.env, CURFEW_SIGNAL_SECRET: undefined }
    expect((await at.type('signal', 'send', ...flags)).exit).toBe(2)
  })

  test('a retry after a lost answer is the same event', async () => {
    at.env = { ...at.env, CURFEW_SIGNAL_SECRET: at.broker.signalSecret }
    at.broker.faults.push({ when: s => s.path === '/v1/signals', times: 1, drop: 'after' })
    expect((await at.type('signal', 'send', ...flags)).exit).toBe(0)
    expect((await at.type('signal', 'list', '-o', 'name')).out.trim().split('\n')).toHaveLength(1)
  })

  test('show takes ids of signals only', async () => {
    expect((await at.type('signal', 'show', 'crd_00000000000000000000000000')).exit).toBe(2)
  })
})
