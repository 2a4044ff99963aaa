/** Evidence that is found by itself (ux.md 2.1): in which order, asked how, and what is said where a piece is missing. */
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { createServer as createHttp2, type ServerHttp2Stream } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { findEvidence } from '../../../src/cli/evidence/find.js'
import type { EvidenceSource } from '../../../src/cli/evidence/source.js'
import { fetchJwtSvid } from '../../../src/cli/evidence/workload-api.js'
import { type Desk, desk } from './desk.js'

let at: Desk
beforeEach(async () => {
  at = await desk()
})
afterEach(() => at.close())

const AUDIENCE = 'https://curfew.example'
const signal = () => AbortSignal.timeout(10_000)
const none = '/nowhere/token'

/** A program of the job's agent: it writes down how it was called and prints a token. */
function program(name: string, script: string): void {
  const bin = join(at.home, 'bin')
  mkdirSync(bin, { recursive: true })
  writeFileSync(join(bin, name), `#!/bin/sh\nprintf '%s\\n' "$@" > '${at.home}/${name}.args'\n${script}\n`)
  chmodSync(join(bin, name), 0o755)
  at.env = { ...at.env, PATH: `${bin}:${process.env.PATH}` }
}
const argsOf = (name: string) =>
  readFileSync(join(at.home, `${name}.args`), 'utf8')
    .trimEnd()
    .split('\n')

const why = async (...flags: string[]) => {
  const told = await at.type('why', 'demo/orders-ro', ...flags)
  const asked = at.broker.seen.filter(s => s.path === '/v1/decisions:explain').at(-1)
  return { ...told, sent: asked ? (JSON.parse(asked.text) as { subject_token: string; subject_token_type: string }) : null }
}

const BUILDKITE = { BUILDKITE: 'true', BUILDKITE_JOB_ID: '0184990a-477b-4fa8-9968-496074483cee', BUILDKITE_AGENT_ACCESS_TOKEN: 'canary-agent-token' }

describe('which source it is', () => {
  const NAMES: readonly [string, Record<string, string>][] = [
    ['GitHub Actions', { ACTIONS_ID_TOKEN_REQUEST_URL: 'http://x', ACTIONS_ID_TOKEN_REQUEST_TOKEN: 't' }],
    ['GitLab CI (CURFEW_ID_TOKEN)', { GITLAB_CI: 'true', CURFEW_ID_TOKEN: 'a.b.c' }],
    ['Buildkite (buildkite-agent oidc request-token)', BUILDKITE],
    ['CircleCI (circleci run oidc get)', { CIRCLECI: 'true', CIRCLE_OIDC_TOKEN_V2: 'a.b.c' }],
    ['Azure Pipelines', { TF_BUILD: 'True', SYSTEM_OIDCREQUESTURI: 'http://x/oidc', SYSTEM_ACCESSTOKEN: 't' }],
    ['Bitbucket Pipelines (BITBUCKET_STEP_OIDC_TOKEN)', { BITBUCKET_BUILD_NUMBER: '7', BITBUCKET_STEP_OIDC_TOKEN: 'a.b.c' }],
  ]

  test('the first in the order that is written down, of all that are there', () => {
    const file = join(at.home, 'projected')
    writeFileSync(file, 'a.b.c')
    const socket = { SPIFFE_ENDPOINT_SOCKET: 'unix:///run/spire.sock' }
    for (let i = 0; i <= NAMES.length; i++) {
      const env = Object.assign({}, ...NAMES.slice(i).map(([, e]) => e), socket)
      expect(findEvidence({}, { env, kubernetesFile: file }).name).toBe(NAMES[i]?.[0] ?? `Kubernetes projected token ${file}`)
    }
    expect(findEvidence({}, { env: socket, kubernetesFile: none }).name).toBe('SPIFFE Workload API unix:///run/spire.sock')
  })

  test('what is named comes before what is found, and --attestor names one of those that are there', () => {
    const env = Object.assign({}, ...NAMES.map(([, e]) => e))
    expect(findEvidence({ attestor: 'circleci' }, { env, kubernetesFile: none }).name).toBe('CircleCI (circleci run oidc get)')
    expect(findEvidence({ idTokenEnv: 'CURFEW_ID_TOKEN' }, { env, kubernetesFile: none }).name).toBe('environment CURFEW_ID_TOKEN')
    const { GITLAB_CI: _, ...elsewhere } = env
    expect(findEvidence({}, { env: elsewhere, kubernetesFile: none }).name).toBe('environment CURFEW_ID_TOKEN')
  })

  test.each([
    ['kubernetes', /this is no place of --attestor kubernetes[\s\S]*serviceAccountToken/],
    ['github', /this is no place of --attestor github[\s\S]*id-token: write/],
    ['spiffe', /SPIFFE_ENDPOINT_SOCKET/],
  ])('--attestor %s where there is none: exit 3, and what it would take', async (name, says) => {
    const { exit, err } = await why('--attestor', name)
    expect(exit).toBe(3)
    expect(err).toMatch(says)
  })

  test('two named sources, or one that there is not, are usage: exit 2', async () => {
    expect((await why('--attestor', 'github', '--id-token-file', at.evidenceFile)).exit).toBe(2)
    expect((await why('--attestor', 'jenkins')).exit).toBe(2)
  })

  test.each([
    ['GitLab', { GITLAB_CI: 'true' }, /add to the job: {2}id_tokens: \{ CURFEW_ID_TOKEN: \{ aud: 'http:\/\/127\.0\.0\.1:\d+' \} \}/],
    ['Buildkite', { BUILDKITE: 'true' }, /mount-buildkite-agent: true/],
    ['CircleCI', { CIRCLECI: 'true' }, /Pass secrets to builds from forked pull requests/],
    ['Azure', { TF_BUILD: 'True' }, /env: \{ SYSTEM_ACCESSTOKEN: \$\(System\.AccessToken\) \}/],
    ['Bitbucket', { BITBUCKET_BUILD_NUMBER: '7' }, /oidc: \{ audiences: \['http:\/\/127\.0\.0\.1:\d+'\] \}/],
  ])('a job of %s without its piece: one line, with the next step in its own words', async (_name, env, says) => {
    at.env = { ...at.env, ...env }
    const { exit, err } = await why()
    expect(exit).toBe(3)
    expect(err).toMatch(/^error\[evidence_missing\] .+\n {2}try {12}.+\n$/)
    expect(err).toMatch(says)
    // Named where the server has another public name: that one.
    if (/127/.test(String(says))) expect((await why('--issuer', AUDIENCE)).err).toContain(`'${AUDIENCE}'`)
  })

  test('a job that lacks its piece goes on with what else is there', async () => {
    at.env = { ...at.env, GITLAB_CI: 'true', CURFEW_AGENT: 'agents/reporter', CURFEW_AGENT_KEY: '/nowhere' }
    expect((await why()).err).toContain("the agent's key is no readable private key")
  })
})

describe('GitLab', () => {
  test('the token of the job is shown as an ID token; for another audience the answer is how to set it', async () => {
    const token = await at.evidence()
    at.env = { ...at.env, GITLAB_CI: 'true', CURFEW_ID_TOKEN: token }
    expect((await why()).sent).toMatchObject({ subject_token: token, subject_token_type: 'urn:ietf:params:oauth:token-type:id_token' })
    at.env = { ...at.env, CURFEW_ID_TOKEN: await at.evidence({ aud: 'https://vault.example' }) }
    const { exit, err } = await why()
    expect(exit).toBe(3)
    expect(err).toMatch(/reason +audience_mismatch\n {2}try +the id token is for another audience; set in the job: {2}id_tokens:/)
  })

  test.each([
    ['second_key', 'one `curfew run` around them'],
    ['fork_refused', 'a member runs the pipeline'],
    ['evidence_stale', 'maxEvidenceAgeSeconds'],
    ['life_too_long', 'maxLifeSeconds'],
  ])('a refusal by %s is told in its own words', async (reason, says) => {
    at.env = { ...at.env, GITLAB_CI: 'true', CURFEW_ID_TOKEN: await at.evidence() }
    const refusal = { code: 'attestation_refused', detail: 'no', reason, next: 'what the server would say' }
    at.broker.faults.push({ when: s => s.path === '/v1/tasks', times: 1, status: 401, body: refusal })
    const { err } = await at.type('token', 'demo/orders-bearer')
    expect(err).toContain(says)
    expect(err).not.toContain('what the server would say')
  })
})

describe('Buildkite', () => {
  test('the agent is asked for our audience and for the ids, at every attempt', async () => {
    program('buildkite-agent', `echo '${await at.evidence()}'`)
    at.env = { ...at.env, ...BUILDKITE }
    const { exit, err, sent } = await why()
    expect({ exit, err }).toEqual({ exit: 0, err: '' })
    expect(sent?.subject_token_type).toBe('urn:ietf:params:oauth:token-type:id_token')
    expect(argsOf('buildkite-agent')).toEqual(['oidc', 'request-token', '--audience', AUDIENCE, '--claim', 'organization_id,pipeline_id'])
  })

  test('without the agent, or when it fails: one line, and nothing of a secret in it', async () => {
    at.env = { ...at.env, ...BUILDKITE, PATH: '/nowhere' }
    const absent = await why()
    expect(absent.exit).toBe(3)
    expect(absent.err).toMatch(/there is no buildkite-agent on the PATH of this job\n {2}try +.*mount-buildkite-agent/)
    const leaked = await at.evidence()
    program('buildkite-agent', `echo 'first'>&2; echo 'fatal: 403 Forbidden ${leaked}' >&2; echo '${leaked}'; exit 1`)
    const failed = await why()
    expect(failed.exit).toBe(3)
    expect(failed.err).toContain('buildkite-agent gave no token: fatal: 403 Forbidden')
    for (const secret of [leaked, 'canary-agent-token']) expect(failed.err).not.toContain(secret)
    program('buildkite-agent', 'echo no token today')
    expect((await why()).err).toContain('holds no signed token')
    expect(at.broker.seen.filter(s => s.method === 'POST')).toEqual([])
  })

  test('two commands of one job come with one key, another job of the same runner with another; its file is of no use to that one', async () => {
    program('buildkite-agent', `echo '${await at.evidence()}'`)
    at.env = { ...at.env, ...BUILDKITE }
    await at.type('token', 'demo/orders-bearer')
    await at.type('token', 'demo/orders-bearer')
    at.env = { ...at.env, BUILDKITE_JOB_ID: 'another-job', BUILDKITE_AGENT_ACCESS_TOKEN: 'another-token' }
    await at.type('token', 'demo/orders-bearer')
    const [one, two, other] = [...at.broker.tasks.values()].map(t => t.jkt)
    expect(one).toBe(two)
    expect(other).not.toBe(one)
  })
})

describe('CircleCI', () => {
  test('a token is made for our audience; the one in the environment does not travel', async () => {
    const own = await at.evidence({ aud: 'an-organization' })
    program('circleci', `echo '${await at.evidence()}'`)
    at.env = { ...at.env, CIRCLECI: 'true', CIRCLE_OIDC_TOKEN_V2: own }
    const { exit, sent } = await why()
    expect(exit).toBe(0)
    expect(argsOf('circleci')).toEqual(['run', 'oidc', 'get', '--claims', JSON.stringify({ aud: AUDIENCE })])
    expect(sent?.subject_token).not.toBe(own)
    expect(JSON.stringify(at.broker.seen)).not.toContain(own)
  })

  test('without the program it says why the other token is none, and what makes one', async () => {
    at.env = { ...at.env, CIRCLECI: 'true', CIRCLE_OIDC_TOKEN_V2: await at.evidence({ aud: 'an-organization' }), PATH: '/nowhere' }
    const { exit, err } = await why()
    expect(exit).toBe(3)
    expect(err).toMatch(/CIRCLE_OIDC_TOKEN_V2 is for CircleCI's default audience.*circleci run oidc get/)
  })
})

describe('Azure Pipelines and Bitbucket', () => {
  let service: Server
  const asked: string[] = []
  let answer: { status: number; body: unknown }
  beforeEach(async () => {
    asked.length = 0
    service = createServer((req, res) => {
      asked.push(`${req.method} ${req.url} ${req.headers.authorization}`)
      res.statusCode = answer.status
      res.end(JSON.stringify(answer.body))
    })
    await new Promise<void>(resolve => service.listen(0, '127.0.0.1', resolve))
    const uri = `http://127.0.0.1:${(service.address() as AddressInfo).port}/plans/1/jobs/2/oidctoken`
    at.env = { ...at.env, TF_BUILD: 'True', SYSTEM_OIDCREQUESTURI: uri, SYSTEM_ACCESSTOKEN: 'canary-access' }
  })
  afterEach(() => void service.close())

  test('Azure is asked with the access token of the job, and only Azure hears it', async () => {
    answer = { status: 200, body: { oidcToken: await at.evidence() } }
    const { exit } = await why()
    expect(exit).toBe(0)
    expect(asked).toEqual(['POST /plans/1/jobs/2/oidctoken?api-version=7.1-preview.1 Bearer canary-access'])
    expect(JSON.stringify(at.broker.seen)).not.toContain('canary-access')
  })

  test('its refusal, and a token for its one audience, are told with what to do', async () => {
    answer = { status: 403, body: {} }
    expect((await why()).err).toMatch(/Azure Pipelines refused a token \(403\)\n {2}try +.*System\.AccessToken/)
    answer = { status: 200, body: { oidcToken: await at.evidence({ aud: 'api://AzureADTokenExchange' }) } }
    expect((await why()).err).toContain('audience: api://AzureADTokenExchange')
    answer = { status: 200, body: {} }
    expect((await why()).err).toContain('holds no signed token')
  })

  test('Bitbucket: the token of the step', async () => {
    const { TF_BUILD: _, ...env } = at.env
    const token = await at.evidence()
    at.env = { ...env, BITBUCKET_BUILD_NUMBER: '7', BITBUCKET_STEP_OIDC_TOKEN: token }
    expect((await why()).sent?.subject_token).toBe(token)
    at.env.BITBUCKET_STEP_OIDC_TOKEN = await at.evidence({ aud: ['ari:cloud:bitbucket::workspace/x'] })
    expect((await why()).err).toContain(`oidc: { audiences: ['${at.broker.url}'] }`)
  })
})

describe('a SPIFFE agent', () => {
  let server: ReturnType<typeof createHttp2>
  let endpoint: string
  let handle: (stream: ServerHttp2Stream, headers: Record<string, unknown>, body: Buffer) => void
  beforeEach(async () => {
    server = createHttp2()
    server.on('stream', (stream, headers) => {
      const chunks: Buffer[] = []
      stream.on('data', chunk => chunks.push(chunk as Buffer))
      stream.on('end', () => handle(stream, headers, Buffer.concat(chunks)))
      stream.on('error', () => {})
    })
    const socket = join(at.home, 'agent.sock')
    await new Promise<void>(resolve => server.listen(socket, resolve))
    endpoint = `unix://${socket}`
  })
  afterEach(() => void server.close())

  const field = (n: number, value: Buffer | string) => {
    const bytes = Buffer.from(value)
    const length = bytes.length < 128 ? [bytes.length] : [(bytes.length & 0x7f) | 0x80, bytes.length >> 7]
    return Buffer.concat([Buffer.from([(n << 3) | 2, ...length]), bytes])
  }
  const frame = (message: Buffer) => Buffer.concat([Buffer.from([0, 0, 0, message.length >> 8, message.length & 0xff]), message])
  const svid = (token: string, id = 'spiffe://example.org/ci') => field(1, Buffer.concat([field(1, id), field(2, token), field(3, 'internal')]))
  const answers = (body: Buffer, status = '0') => {
    handle = stream => {
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': status }))
      stream.end(body)
    }
  }

  test('is asked as the Workload API demands, and its first identity is taken; fields nobody knows are passed over', async () => {
    const token = await at.evidence()
    let heard: unknown
    answers(frame(Buffer.concat([Buffer.from([0x48, 0x96, 0x01]), svid(token), svid('x.y.z', 'spiffe://example.org/other')])))
    const answer = handle
    handle = (stream, headers, body) => {
      heard = [headers[':path'], headers['content-type'], headers.te, headers['workload.spiffe.io'], body.subarray(5).toString('latin1')]
      answer(stream, headers, body)
    }
    expect(await fetchJwtSvid(endpoint, AUDIENCE, signal())).toBe(token)
    expect(heard).toEqual(['/SpiffeWorkloadAPI/FetchJWTSVID', 'application/grpc', 'trailers', 'true', `\n${String.fromCharCode(AUDIENCE.length)}${AUDIENCE}`])
    at.env = { ...at.env, SPIFFE_ENDPOINT_SOCKET: endpoint }
    expect((await why()).sent).toMatchObject({ subject_token: token, subject_token_type: 'urn:ietf:params:oauth:token-type:jwt' })
  })

  test('that knows nobody like us says so in its headers alone: the answer is to register the workload', async () => {
    handle = stream =>
      stream.respond({ ':status': 200, 'content-type': 'application/grpc', 'grpc-status': '7', 'grpc-message': 'no%20identity%20issued' }, { endStream: true })
    at.env = { ...at.env, SPIFFE_ENDPOINT_SOCKET: endpoint }
    const { exit, err } = await why()
    expect(exit).toBe(3)
    expect(err).toMatch(/has no identity for this process\n {2}try +register it: spire-server entry create/)
  })

  test.each([
    ['a refusal of another kind', () => answers(Buffer.alloc(0), '14'), /gRPC status 14/],
    ['no message at all', () => answers(Buffer.alloc(0)), /no gRPC message/],
    ['a compressed message', () => answers(Buffer.from([1, 0, 0, 0, 0])), /no gRPC message/],
    ['a length that is not there', () => answers(frame(Buffer.from([0x0a, 0x7f, 0x01]))), /cannot be read/],
    ['a number without an end', () => answers(frame(Buffer.alloc(12, 0xff))), /cannot be read/],
    ['a group, which nobody sends any more', () => answers(frame(Buffer.from([0x0b]))), /cannot be read/],
    ['an identity without its token', () => answers(frame(field(1, field(1, 'spiffe://x/y')))), /without a JWT-SVID/],
    ['two megabytes', () => answers(Buffer.alloc(2_097_152)), /no SPIFFE agent answers/],
    ['an end in the middle', () => (handle = stream => stream.close(2)), /no SPIFFE agent answers|gRPC status 2/],
  ])('that answers %s is told apart, and nothing is sent on', async (_what, prepare, says) => {
    prepare()
    await expect(fetchJwtSvid(endpoint, AUDIENCE, signal())).rejects.toThrow(says)
  })

  test('that is not there, or is named by a name, or is nothing of the kind', async () => {
    await expect(fetchJwtSvid(`unix://${at.home}/none.sock`, AUDIENCE, signal())).rejects.toMatchObject({
      exit: 3,
      problem: { next: expect.stringContaining('unix:///') },
    })
    for (const bad of ['tcp://localhost:8081', 'http://127.0.0.1:8081', 'unix:relative', 'agent.sock', ''])
      await expect(fetchJwtSvid(bad, AUDIENCE, signal())).rejects.toMatchObject({ exit: 2 })
  })

  test('that is silent is left when the caller goes', async () => {
    handle = () => {}
    const gone = new AbortController()
    const asked = fetchJwtSvid(endpoint, AUDIENCE, gone.signal)
    setTimeout(() => gone.abort(new Error('gone')), 50)
    await expect(asked).rejects.toThrow('gone')
  })
})

describe('what a job keeps on a runner that jobs share', () => {
  const job = async (n: number) => ({ ...at.env, GITLAB_CI: 'true', CURFEW_ID_TOKEN: n === 0 ? undefined : await at.evidence({ job: n }) })
  const typed = async (env: Record<string, string | undefined>, ...argv: string[]) => {
    const before = at.env
    at.env = env
    try {
      return await at.type(...argv)
    } finally {
      at.env = before
    }
  }

  test('its tasks and its key lie sealed, and another job of the same user neither sees nor ends them', async () => {
    const [one, two] = [await job(1), await job(2)]
    await typed(one, 'token', 'demo/orders-bearer')
    const [task] = [...at.broker.tasks.values()]
    const state = join(at.home, '.local', 'state', 'curfew')
    const kept = readFileSync(join(state, 'tasks', `${task?.view.id}.json`), 'utf8')
    expect(JSON.parse(kept)).toEqual({
      server: at.broker.url,
      task: task?.view.id,
      deadlineAt: expect.any(String),
      job: ['CURFEW_ID_TOKEN'],
      box: expect.any(String),
    })
    expect(kept).not.toContain(task?.token)
    expect(existsSync(join(state, 'keys'))).toBe(true)

    expect((await typed(two, 'complete')).err).toContain('this user keeps no task')
    expect((await typed(two, 'complete', '--mine')).exit).toBe(0)
    expect((await typed(two, 'complete', '--task', task?.view.id as string)).exit).toBe(6)
    expect(task?.view.state).toBe('open')
    // Nor does anybody after it: its token went with it.
    expect((await typed(await job(0), 'complete')).err).toContain('this user keeps no task')
    expect((await typed(one, 'complete')).exit).toBe(0)
    expect(task?.view.state).toBe('completed')
  })

  test('commands that start at once have one key, and a damaged file makes a new one', async () => {
    const one = await job(1)
    const all = await Promise.all(Array.from({ length: 6 }, () => typed(one, 'token', 'demo/orders-bearer')))
    expect(all.map(a => a.exit)).toEqual(Array(6).fill(0))
    expect(new Set([...at.broker.tasks.values()].map(t => t.jkt)).size).toBe(1)
  })
})

test('a source is asked anew at every attempt, and its name says where it is', async () => {
  program('buildkite-agent', `n=$(cat '${at.home}/n' 2>/dev/null || echo 0); echo $((n+1)) > '${at.home}/n'; echo "a.b.c$n"`)
  const source: EvidenceSource = findEvidence({}, { env: { ...at.env, ...BUILDKITE }, kubernetesFile: none })
  expect([await source.fresh(AUDIENCE, signal()), await source.fresh(AUDIENCE, signal())]).toEqual(['a.b.c0', 'a.b.c1'])
})
