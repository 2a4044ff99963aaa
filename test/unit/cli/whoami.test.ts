/** `whoami`, `caps`: what a workload is to the broker, and what it may ask for, before it asks for anything. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Desk, desk } from './desk.js'

let at: Desk
beforeEach(async () => {
  at = await desk()
})
afterEach(() => at.close())

const whoami = (...flags: string[]) => at.type('whoami', '--id-token-file', at.evidenceFile, ...flags)
const caps = (...flags: string[]) => at.type('caps', '--id-token-file', at.evidenceFile, ...flags)

describe('curfew whoami', () => {
  test('shows evidence, identity, attributes, key and clock, and uses nothing up', async () => {
    const { exit, out, err } = await whoami()
    expect({ exit, err }).toEqual({ exit: 0, err: '' })
    for (const line of [
      /^you are +github:repository_id=456789$/m,
      /^source +file .*svid\.jwt$/m,
      /^issuer +fake \(profile gitlab, strength 2 of 3\)$/m,
      /^owner +@orders$/m,
      /^evidence +4 s old, ends in 4m5\ds, not used yet$/m,
      /^run +fake:20:574:302$/m,
      /^key +[\w-]{43} \(made for this command\)$/m,
      /^clock +as the server's, within \d+ ms$/m,
      /^attributes that policy sees\n {2}ref {2}main\n {2}context_ids {2}a, b$/m,
    ])
      expect(out).toMatch(line)
    expect(at.broker.tasks.size).toBe(0)
  })

  test('in a CI job the key is the job’s, the same at every look', async () => {
    at.env = { ...at.env, GITLAB_CI: 'true', CURFEW_ID_TOKEN: await at.evidence() }
    const keyOf = ({ out }: { out: string }) => /^key +(\S+) \(this job's\)$/m.exec(out)?.[1]
    const key = keyOf(await at.type('whoami'))
    expect(key).toMatch(/^[\w-]{43}$/)
    expect(keyOf(await at.type('whoami'))).toBe(key)
    expect((await at.type('whoami')).out).toMatch(/^source +GitLab CI \(CURFEW_ID_TOKEN\)$/m)
  })

  test.each([
    ['used', 'a new one is needed'],
    ['bound', "tied to this job's key"],
    ['bound_elsewhere', 'it was copied, or this is not the user'],
    ['reusable', 'may be shown again'],
  ])('evidence that is %s is told in words', async (use, says) => {
    at.broker.use = use
    expect((await whoami()).out).toContain(says)
  })

  test('a clock that is off is told with its sign, and warned of before proofs are refused', async () => {
    at.broker.aheadMs = 90_000
    const { out, err } = await whoami()
    expect(out).toMatch(/^clock +1m30s behind the server's$/m)
    expect(err).toMatch(/^set this machine's clock: it is 1m30s behind the server's$/m)
    at.broker.aheadMs = -1_500
    const small = await whoami()
    expect(small.out).toMatch(/^clock +1[45]\d\d ms ahead of the server's$/m)
    expect(small.err).toBe('')
  })

  test('--json has it all, --output name the identity, and neither the evidence', async () => {
    const { out } = await whoami('--json')
    expect(JSON.parse(out)).toMatchObject({
      identity: 'github:repository_id=456789',
      attributes: { ref: 'main' },
      use: 'unused',
      jkt: expect.stringMatching(/^[\w-]{43}$/),
      source: expect.stringMatching(/^file /),
      server: at.broker.url,
      clock: { ahead_ms: expect.any(Number), uncertain_ms: expect.any(Number) },
    })
    expect((await whoami('-o', 'name')).out).toBe('github:repository_id=456789\n')
    for (const canary of at.canaries) expect(out).not.toContain(canary)
  })

  test('refused evidence is exit 3, and none at all says how to name it', async () => {
    at.broker.faults.push({
      when: s => s.path === '/v1/evidence:explain',
      times: 1,
      status: 401,
      body: { code: 'attestation_refused', detail: 'no', reason: 'expired' },
    })
    expect((await whoami()).exit).toBe(3)
    expect((await at.type('whoami')).err).toContain('--id-token-file FILE')
  })

  test('an answer that is none of ours is exit 1', async () => {
    at.broker.faults.push({ when: s => s.path === '/v1/evidence:explain', times: 1, status: 200, body: { evidence: null } })
    expect((await whoami()).exit).toBe(1)
  })
})

describe('curfew caps', () => {
  test('lists what is permitted, with ceilings, classes and whether the evidence suffices', async () => {
    const { exit, out, err } = await caps()
    expect(exit).toBe(0)
    const [head, ...rows] = out.trimEnd().split('\n')
    expect(head).toMatch(/^CAPABILITY +LIFE +INTENT +SENSITIVITY +REVOCATION +EVIDENCE +PARAMS +WHAT$/)
    expect(rows).toHaveLength(4)
    expect(out).toMatch(/^db\/orders-ro +5m, at most 15m +read +medium +backend +suffices +- +what db\/orders-ro is$/m)
    expect(out).toMatch(/^demo\/legacy .* expiry-only +too old /m)
    expect(err).toBe('evidence too old for demo/legacy: attest again\n')
  })

  test('what is not permitted is not there; nothing at all is said, and is no failure', async () => {
    at.broker.allowed = name => name === 'demo/orders-ro'
    expect((await caps('-o', 'name')).out).toBe('demo/orders-ro\n')
    at.broker.allowed = () => false
    const { exit, out, err } = await caps()
    expect({ exit, out }).toEqual({ exit: 0, out: '' })
    expect(err).toContain('curfew why CAPABILITY says what differs')
    expect(JSON.parse((await caps('--json')).out)).toEqual([])
  })

  test('purpose and labels reach the broker', async () => {
    await caps('--purpose', 'nightly report', '--label', 'team=data')
    const asked = at.broker.seen.find(s => s.path === '/v1/evidence:explain')
    expect(JSON.parse(asked?.text as string)).toMatchObject({ purpose: 'nightly report', labels: { team: 'data' } })
  })

  test('of a task that is kept here: what it was opened for, by its own token', async () => {
    await at.type('token', 'demo/orders-bearer', '--id-token-file', at.evidenceFile)
    const [task] = [...at.broker.tasks.values()]
    const { exit, out } = await at.type('caps', '--task', task?.view.id as string)
    expect(exit).toBe(0)
    expect(out).toMatch(/^demo\/orders-bearer .* - +- +what/m)
    expect((await at.type('caps', '--task', 'tsk_0123456789abcdefghjkmnpqrs')).exit).toBe(6)
  })
})
