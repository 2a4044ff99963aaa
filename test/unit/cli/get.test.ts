/** `token`, `why`, `complete`: getting a token and giving it back. */
import { createPublicKey } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { decodeJwt, decodeProtectedHeader, jwtVerify } from 'jose'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { findEvidence } from '../../../src/cli/evidence/find.js'
import { newKeyPair } from '../../../src/domain/key-pair.js'
import { pairFor } from '../../key-pair.js'
import { type Desk, desk } from './desk.js'

let at: Desk
beforeEach(async () => {
  at = await desk()
})
afterEach(() => at.close())

const stateFiles = (what: string) => {
  const dir = join(at.home, '.local', 'state', 'curfew', what)
  return existsSync(dir) ? readdirSync(dir).map(name => join(dir, name)) : []
}
const secretOf = (capability: string) => at.broker.offers.get(capability)?.secret.token as string

describe('curfew token', () => {
  test('prints the token and nothing else on stdout', async () => {
    const { exit, out, err } = await at.type('token', 'demo/orders-bearer', '--ttl', '20s', '--id-token-file', at.evidenceFile)
    expect({ exit, out, err }).toEqual({ exit: 0, out: `${secretOf('demo/orders-bearer')}\n`, err: '' })
    const [task] = [...at.broker.tasks.values()]
    const [credential] = [...at.broker.credentials.values()]
    expect(Date.parse(credential?.expires_at as string) - Date.parse(credential?.issued_at as string)).toBe(20_000)
    // The task outlives the token, or it would cut it short.
    expect(Date.parse(String(task?.view.deadline_at)) - Date.parse(String(task?.view.opened_at))).toBeGreaterThan(20_000)
  })

  test('every proof carries the public URL, not the address that was dialled', async () => {
    await at.type('token', 'demo/orders-bearer', '--id-token-file', at.evidenceFile)
    const proofs = at.broker.seen.map(s => s.headers.dpop).filter(p => typeof p === 'string')
    expect(proofs.map(p => decodeJwt(p).htu)).toEqual([
      'https://curfew.example/v1/tasks',
      expect.stringMatching(/^https:\/\/curfew\.example\/v1\/tasks\/tsk_\w+\/credentials$/),
    ])
    expect(at.broker.seen.filter(s => s.path.startsWith('/.well-known/'))).toHaveLength(1)
  })

  test('the task is kept in one file that nobody else may read, without the secret, and is gone after complete', async () => {
    await at.type('token', 'demo/orders-bearer', '--id-token-file', at.evidenceFile)
    const [file, ...others] = stateFiles('tasks')
    expect(others).toEqual([])
    expect(statSync(file as string).mode & 0o777).toBe(0o600)
    expect(statSync(join(at.home, '.local', 'state', 'curfew', 'tasks')).mode & 0o777).toBe(0o700)
    const text = readFileSync(file as string, 'utf8')
    for (const canary of at.canaries) expect(text).not.toContain(canary)

    const { exit, err } = await at.type('complete')
    expect(exit).toBe(0)
    expect(err).toMatch(/^task tsk_\w+ completed: refused at once, confirmed dead in (\d+ ms|0\.\d s), (5m|4m\d+s) of life not used\n$/)
    expect(stateFiles('tasks')).toEqual([])
    expect([...at.broker.credentials.values()].map(c => c.state)).toEqual(['revoked'])
  })

  test('with --resource asks the token endpoint: one request opens the task and answers its token', async () => {
    const { exit, out } = await at.type(
      'token',
      'demo/orders-bearer',
      '--resource',
      'https://orders.example/',
      '--ttl',
      '20s',
      '--id-token-file',
      at.evidenceFile,
    )
    expect({ exit, out }).toEqual({ exit: 0, out: `${secretOf('demo/orders-bearer')}\n` })
    expect(at.broker.seen.filter(s => s.method === 'POST').map(s => s.path)).toEqual(['/oauth2/token'])
    expect((await at.type('complete', '--mine')).exit).toBe(0)
    expect([...at.broker.tasks.values()].map(t => t.view.state)).toEqual(['completed'])
  })

  test('a resource that is not registered is exit 6, with the OAuth error in our shape', async () => {
    const { exit, err } = await at.type('token', 'demo/orders-bearer', '--resource', 'https://other.example/', '--id-token-file', at.evidenceFile)
    expect(exit).toBe(6)
    expect(err).toContain('error[target_unknown] resource_unknown: no such resource server is registered')
  })

  test('a token that is bound to the key says so, on stderr', async () => {
    const { out, err } = await at.type('token', 'demo/orders-ro', '--id-token-file', at.evidenceFile)
    expect(out).toBe(`${secretOf('demo/orders-ro')}\n`)
    expect(err).toMatch(/^crd_\w+ is bound to a key/)
    expect((await at.type('token', 'demo/orders-ro', '-q', '--id-token-file', at.evidenceFile)).err).toBe('')
  })

  test('what is no token is given back at once, and the text says what to type instead', async () => {
    const { exit, out, err } = await at.type('token', 'db/orders-ro', '--id-token-file', at.evidenceFile)
    expect({ exit, out }).toEqual({ exit: 2, out: '' })
    expect(err).toContain('curfew run db/orders-ro -- command')
    expect([...at.broker.tasks.values()].map(t => t.view.state)).toEqual(['cancelled'])
    expect(stateFiles('tasks')).toEqual([])
  })

  test('--json holds the token, the credential and the task', async () => {
    const { out } = await at.type('token', 'demo/orders-bearer', '--json', '--ttl', '30', '--id-token-file', at.evidenceFile)
    expect(JSON.parse(out)).toEqual({
      token: secretOf('demo/orders-bearer'),
      token_type: 'Bearer',
      credential: expect.stringMatching(/^crd_/),
      task: expect.stringMatching(/^tsk_/),
      expires_in: 30,
    })
  })

  test('purpose and labels reach the broker', async () => {
    await at.type('token', 'demo/orders-bearer', '--purpose', 'nightly report', '--label', 'team=data', '--label', 'tier=1', '--id-token-file', at.evidenceFile)
    expect([...at.broker.tasks.values()].map(t => [t.view.purpose, t.view.labels])).toEqual([['nightly report', { team: 'data', tier: '1' }]])
  })
})

describe('curfew complete', () => {
  const open = () => at.type('token', 'demo/orders-bearer', '--id-token-file', at.evidenceFile)

  test('asks which when there are several, and --mine takes all', async () => {
    await open()
    await open()
    const { exit, err } = await at.type('complete')
    expect(exit).toBe(2)
    expect(err).toContain('there are 2 tasks')
    const all = await at.type('complete', '--mine', '--json')
    expect((JSON.parse(all.out) as unknown[]).length).toBe(2)
    expect([...at.broker.tasks.values()].map(t => t.view.state)).toEqual(['completed', 'completed'])
  })

  test('another broker keeps its own: nothing of this one is shown to it', async () => {
    await open()
    const { exit, err } = await at.type('complete', '--mine', '--server', 'http://127.0.0.1:9')
    expect({ exit, err }).toEqual({ exit: 0, err: '' })
    expect(stateFiles('tasks')).toHaveLength(1)
  })

  test('a task that ended long ago is forgotten without an error', async () => {
    await open()
    at.broker.tasks.clear()
    at.broker.faults.push({ when: s => s.path.endsWith('/complete'), times: 1, status: 404, body: { code: 'not_found', detail: 'no such task' } })
    const { exit, err } = await at.type('complete')
    expect(exit).toBe(0)
    expect(err).toContain('had ended already')
    expect(stateFiles('tasks')).toEqual([])
  })

  test('what only time can end is told, and is exit 10 for who waits', async () => {
    await at.type('token', 'demo/legacy', '--id-token-file', at.evidenceFile)
    const { exit, err } = await at.type('complete', '--wait', '1s')
    expect(exit).toBe(10)
    expect(err).toMatch(/crd_\w+ stays usable until \d\d:\d\d:\d\dZ/)
    expect(err).not.toContain('confirmed dead')
  })

  test('inside `curfew run` it says who holds the task', async () => {
    at.env = { ...at.env, CURFEW_TASK: 'tsk_0123456789abcdefghjkmnpqrs' }
    const { exit, err } = await at.type('complete')
    expect(exit).toBe(6)
    expect(err).toContain('the `curfew run` around this command holds it')
  })
})

describe('curfew why', () => {
  test('allowed is exit 0; nothing is opened', async () => {
    const { exit, out } = await at.type('why', 'demo/orders-ro', '--id-token-file', at.evidenceFile)
    expect(exit).toBe(0)
    expect(out).toContain('allowed  demo/orders-ro')
    expect(at.broker.tasks.size).toBe(0)
  })

  test('denied is exit 4 with the nearest rule and the claim that differs', async () => {
    at.broker.allowed = () => false
    const { exit, out } = await at.type('why', 'demo/orders-ro', '--id-token-file', at.evidenceFile)
    expect(exit).toBe(4)
    expect(out).toContain('ci-orders-main (3 of 4 conditions hold)')
    expect(out).toContain('ref: your token says "refs/pull/88/merge"')
  })
})

describe('evidence', () => {
  const why = async (...flags: string[]) => {
    const told = await at.type('why', 'demo/orders-ro', ...flags)
    const asked = at.broker.seen.filter(s => s.path === '/v1/decisions:explain').at(-1)
    return { ...told, sent: asked ? (JSON.parse(asked.text) as { subject_token: string; subject_token_type: string }) : null }
  }

  test('two named sources are refused', async () => {
    expect((await why('--id-token-file', at.evidenceFile, '--id-token-env', 'X')).exit).toBe(2)
  })

  test('without any, the text says how to name one: exit 3', async () => {
    const { exit, err } = await why()
    expect(exit).toBe(3)
    expect(err).toContain('error[evidence_missing]')
    expect(err).toContain('--id-token-file FILE')
  })

  test('an environment variable, by flag and by its usual name', async () => {
    const token = await at.evidence()
    at.env = { ...at.env, MY_TOKEN: token }
    expect((await why('--id-token-env', 'MY_TOKEN')).sent?.subject_token).toBe(token)
    at.env = { ...at.env, CURFEW_ID_TOKEN: token }
    expect((await why()).sent?.subject_token).toBe(token)
  })

  test('a file that holds no token is not sent', async () => {
    const path = join(at.home, 'password.txt')
    writeFileSync(path, 'hunter2')
    const { exit, err } = await why('--id-token-file', path)
    expect(exit).toBe(3)
    expect(err).not.toContain('hunter2')
    expect(at.broker.seen.filter(s => s.method === 'POST')).toEqual([])
  })

  test('commands of one CI job share one proof key, as evidence that is bound to its first key demands', async () => {
    at.env = { ...at.env, CURFEW_ID_TOKEN: await at.evidence() }
    await at.type('token', 'demo/orders-bearer')
    await at.type('token', 'demo/orders-bearer')
    at.env = { ...at.env, CURFEW_ID_TOKEN: await at.evidence() }
    await at.type('token', 'demo/orders-bearer')
    const keys = [...at.broker.tasks.values()].map(t => t.jkt)
    expect(keys[0]).toBe(keys[1])
    expect(keys[2]).not.toBe(keys[0])
    for (const file of stateFiles('keys')) expect(statSync(file).mode & 0o777).toBe(0o600)
  })

  test('GitHub Actions: a token for our audience, fresh for every attempt, and only to the runner goes its request token', async () => {
    const asked: string[] = []
    const runner = createServer(async (req, res) => {
      asked.push(`${req.headers.authorization} ${req.url}`)
      res.end(JSON.stringify({ value: await at.evidence({ aud: new URL(req.url as string, 'http://x').searchParams.get('audience') }) }))
    })
    await new Promise<void>(resolve => runner.listen(0, '127.0.0.1', resolve))
    try {
      at.env = {
        ...at.env,
        GITHUB_ACTIONS: 'true',
        ACTIONS_ID_TOKEN_REQUEST_URL: `http://127.0.0.1:${(runner.address() as AddressInfo).port}/token?api-version=2`,
        ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'canary-request-token',
      }
      at.broker.faults.push({ when: s => s.path === '/v1/tasks', times: 1, status: 503, body: { code: 'unavailable', detail: 'later' } })
      const { exit, err } = await at.type('token', 'demo/orders-bearer')
      expect({ exit, err }).toEqual({ exit: 0, err: '' })
      expect(asked).toEqual(Array(2).fill('bearer canary-request-token /token?api-version=2&audience=https%3A%2F%2Fcurfew.example'))
      const [first, second] = at.broker.seen.filter(s => s.path === '/v1/tasks').map(s => (JSON.parse(s.text) as { subject_token: string }).subject_token)
      expect(first).not.toBe(second)
      expect(JSON.stringify(at.broker.seen)).not.toContain('canary-request-token')
    } finally {
      runner.close()
    }
  })

  test('GitHub Actions without the permission: one ::error:: line that names it', async () => {
    at.env = { ...at.env, GITHUB_ACTIONS: 'true' }
    const { exit, err } = await why()
    expect(exit).toBe(3)
    expect(err).toBe('::error::curfew: this job may not ask for an id token; add to the job:  permissions: { id-token: write, contents: read }\n')
  })

  test('a Kubernetes projected token stands behind GitHub and before an agent', async () => {
    const path = join(at.home, 'projected')
    writeFileSync(path, await at.evidence())
    const around = { env: { CURFEW_AGENT: 'agents/reporter', CURFEW_AGENT_KEY: 'k' }, kubernetesFile: path }
    expect(findEvidence({}, around).name).toBe(`Kubernetes projected token ${path}`)
    expect(findEvidence({}, { ...around, kubernetesFile: join(at.home, 'none') }).name).toBe('agent agents/reporter')
    expect(findEvidence({}, { ...around, env: { ...around.env, ACTIONS_ID_TOKEN_REQUEST_URL: 'u', ACTIONS_ID_TOKEN_REQUEST_TOKEN: 't' } }).name).toBe(
      'GitHub Actions',
    )
    expect(findEvidence({ agent: 'agents/reporter', agentKey: 'k' }, around).name).toBe('agent agents/reporter')
  })

  test.each([
    ['ec', 'ES256', 'jwk'],
    ['rsa', 'RS256', 'pem'],
    ['ed25519', 'EdDSA', 'pem'],
  ] as const)('a registered agent states itself with its %s key', async (_kind, alg, form) => {
    const { privateKey } = await pairFor(alg)
    const path = join(at.home, 'agent.key')
    writeFileSync(path, form === 'jwk' ? JSON.stringify(privateKey.export({ format: 'jwk' })) : privateKey.export({ format: 'pem', type: 'pkcs8' }), {
      mode: 0o600,
    })
    const { sent, exit } = await why('--agent', 'agents/reporter', '--agent-key', path)
    expect(exit).toBe(0)
    const { payload, protectedHeader } = await jwtVerify(sent?.subject_token as string, createPublicKey(privateKey), {
      audience: 'https://curfew.example',
      typ: 'client-authentication+jwt',
    })
    expect(protectedHeader).toEqual({ alg, typ: 'client-authentication+jwt' })
    expect(payload).toMatchObject({ iss: 'agents:agent=reporter', sub: 'agents:agent=reporter', aud: 'https://curfew.example' })
    expect((payload.exp as number) - (payload.iat as number)).toBeLessThanOrEqual(300)
    expect(payload.jti).toEqual(expect.any(String))
  })

  test('a broken agent key is refused without a word of its content', async () => {
    const path = join(at.home, 'agent.key')
    writeFileSync(path, '{"kty":"EC","d":"canary-key"')
    const { exit, err } = await why('--agent', 'agents/reporter', '--agent-key', path)
    expect(exit).toBe(3)
    expect(err).not.toContain('canary-key')
  })

  test('what `curfew dev` left makes a second terminal ready: its agent, for its broker only', async () => {
    const { privateKey } = await newKeyPair('ec', { namedCurve: 'P-256' })
    writeFileSync(join(at.home, 'dev.key'), JSON.stringify(privateKey.export({ format: 'jwk' })), { mode: 0o600 })
    mkdirSync(join(at.home, '.config', 'curfew'), { recursive: true })
    const dev = { url: at.broker.url, operatorToken: at.broker.operatorToken, agent: 'dev/you', agentKeyFile: join(at.home, 'dev.key') }
    writeFileSync(join(at.home, '.config', 'curfew', 'dev.json'), JSON.stringify(dev), { mode: 0o600 })
    at.env = { ...at.env, CURFEW_URL: undefined }
    const { exit, sent } = await why()
    expect(exit).toBe(0)
    expect(decodeProtectedHeader(sent?.subject_token as string).typ).toBe('client-authentication+jwt')
    expect((await at.type('list')).exit).toBe(0)
    // Another broker gets neither the agent nor the operator's token.
    expect((await why('--server', 'http://127.0.0.1:9')).exit).toBe(3)
    expect((await at.type('list', '--server', 'http://127.0.0.1:9')).err).toContain('operator_token_missing')
  })
})
