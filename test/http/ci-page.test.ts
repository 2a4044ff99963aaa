/** Owns that docs/ci.md is true: its entries load, its policies admit the jobs that they describe and no others, and its jobs run as they are written. */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { JWTPayload } from 'jose'
import supertest from 'supertest'
import { afterAll, describe, expect, it, vi } from 'vitest'
import { parseAllDocuments } from 'yaml'
import { KUBERNETES_FILE } from '../../src/cli/evidence/kubernetes.js'
import { type CiProvider, ciClaims } from '../../src/dev/ci-tokens.js'
import { type House, makeHouse, SERVER } from '../house.js'
import { blocksOf } from '../pages.js'
import { ENTRY, typed } from '../unit/cli/desk.js'

const ROOT = new URL('../../', import.meta.url).pathname
const PAGE = readFileSync(join(ROOT, 'docs/ci.md'), 'utf8')

/** A house of its own for each provider, and real shells. */
vi.setConfig({ testTimeout: 120_000 })

/** By the file that its first line names. */
// biome-ignore lint/suspicious/noExplicitAny: pages of strangers' formats, read member by member
const documents: readonly { readonly file: string; readonly text: string; readonly tree: any }[] = blocksOf(PAGE, 'yaml').map(text => {
  const [document, ...others] = parseAllDocuments(text, { strict: true, uniqueKeys: true })
  expect([others.length, document?.errors, document?.warnings], text).toEqual([0, [], []])
  return { file: /^# (\S+)$/m.exec(text)?.[1] ?? '', text, tree: document?.toJS() }
})
const file = (name: string) => documents.find(d => d.file === name)
const entries = documents.filter(d => d.file === 'curfew.yaml').map(d => d.tree)
const policies = blocksOf(PAGE, 'cedar')
const AGENTS = { name: 'agents', kind: 'registered', agents: [{ name: 'reporter', owner: '@data', key: { file: 'agent.jwk' } }] }
const SIGNING = `whsec_${randomBytes(32).toString('base64')}`

const generic = (now: number): JWTPayload => ({ aud: SERVER, sub: 's', jti: randomBytes(8).toString('hex'), iat: now, exp: now + 600 })

interface Shown {
  /** A job as the page describes it. */
  claims(iss: string, now: number): JWTPayload
  /** Another branch of the same. */
  readonly other: JWTPayload
  readonly header?: Record<string, unknown>
}
const of = (provider: CiProvider, other: JWTPayload, more: JWTPayload = {}): Shown => ({
  claims: (iss, now) => ({ ...ciClaims(provider, iss, SERVER, now), ...more }),
  other,
})
const SHOWN: Readonly<Record<string, Shown>> = {
  github: of('github', { ref: 'refs/heads/x' }, { workflow_ref: 'acme/orders/.github/workflows/report.yml@refs/heads/main' }),
  gitlab: of('gitlab', { ref: 'x', ref_path: 'refs/heads/x' }),
  buildkite: of('buildkite', { build_branch: 'x' }),
  circleci: of('circleci', { 'oidc.circleci.com/vcs-origin': 'github.com/stranger/orders' }),
  azure: {
    claims: (iss, now) => ({
      ...generic(now),
      ...{ iss, aud: 'api://AzureADTokenExchange', sub: 'p://acme/orders/report', nbf: now - 600 },
      ...{ org_id: '11111111-2222-3333-4444-555555555555', prj_id: '66666666-7777-8888-9999-000000000000', def_id: '42' },
      ...{ rpo_id: 'r', rpo_ref: 'refs/heads/main', run_id: '7' },
    }),
    other: { rpo_ref: 'refs/heads/x' },
    header: { x5t: 'a-thumbprint' },
  },
  bitbucket: {
    claims: (iss, now) => ({
      ...generic(now),
      ...{
        iss,
        aud: [SERVER],
        workspaceUuid: '{w}',
        repositoryUuid: '{aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee}',
        branchName: 'main',
        pipelineUuid: '{p}',
        stepUuid: '{s}',
      },
    }),
    other: { branchName: 'x' },
  },
}

interface Played {
  readonly house: House
  readonly server: Server
  readonly evidence: (more?: JWTPayload) => Promise<string>
}
const played = new Map<string, Promise<Played>>()
const dirs: string[] = []
afterAll(async () => {
  for (const playing of played.values()) {
    const { house, server } = await playing
    server.closeAllConnections()
    server.close()
    await house.close()
  }
  for (const dir of dirs) rmSync(dir, { recursive: true, force: true })
})

/** A broker with the page's own entry, hook and policy for this issuer; only where its keys and secrets are is the test's. */
function playedAs(name: string): Promise<Played> {
  const playing = played.get(name) ?? start(name)
  played.set(name, playing)
  return playing
}
async function start(name: string): Promise<Played> {
  const entry = entries.find(e => e.issuers[0].name === name)
  const hooks = (entry.hooks ?? []).map((h: object) => ({ ...h, secret: { env: 'HOOK_SECRET' } }))
  const house = await makeHouse({
    policies: policies.find(p => p.includes(`context.issuer == "${name}"`)) as string,
    more: { issuers: [{ ...entry.issuers[0], keys: { file: 'github.jwks' } }, AGENTS], hooks, signals: { sources: [], rules: [] } },
    secrets: { HOOK_SECRET: SIGNING },
  })
  const server = createServer(house.http)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { claims, header = {} } = SHOWN[name] as Shown
  return { house, server, evidence: (more = {}) => house.github.mint({ ...claims(entry.issuers[0].issuer, house.now()), ...more }, header) }
}

describe('the entry and the policy', () => {
  it('are there for each', () => {
    expect(entries.map(e => e.issuers[0].name)).toEqual(Object.keys(SHOWN))
    expect(policies).toHaveLength(entries.length)
    expect(entries.flatMap(e => e.hooks ?? []).map(h => h.kind)).toEqual(['github', 'gitlab', 'buildkite'])
  })

  it.each(Object.keys(SHOWN))('of %s load, admit the job that they describe, and not the next one to it', async name => {
    const { house, evidence } = await playedAs(name)
    const offers = async (more?: JWTPayload) => {
      const { body } = await supertest(house.http)
        .post('/v1/evidence:explain')
        .send({ subject_token: await evidence(more) })
      return (body.capabilities as { name: string }[] | undefined)?.map(c => c.name) ?? body
    }
    expect(await offers()).toContain('demo/orders-ro')
    expect(await offers((SHOWN[name] as Shown).other)).toEqual([])
  })

  it.each(['gitlab', 'bitbucket'])('of %s let all commands of a job use its one token', async name => {
    const { house, evidence } = await playedAs(name)
    const { body } = await supertest(house.http)
      .post('/v1/evidence:explain')
      .send({ subject_token: await evidence() })
    expect(body.evidence.replay).toBe('bounded')
  })
})

/** What a provider puts around a job, and its programs. */
const AROUND: Readonly<Record<string, (token: string, bin: string) => Record<string, string>>> = {
  gitlab: token => ({ GITLAB_CI: 'true', CURFEW_ID_TOKEN: token }),
  buildkite: (token, bin) => {
    program(bin, 'buildkite-agent', token)
    return { BUILDKITE: 'true', BUILDKITE_JOB_ID: randomBytes(4).toString('hex'), BUILDKITE_AGENT_ACCESS_TOKEN: 'an-agent' }
  },
  circleci: (token, bin) => {
    program(bin, 'circleci', token)
    return { CIRCLECI: 'true', CIRCLE_OIDC_TOKEN_V2: `a.${randomBytes(4).toString('hex')}.c` }
  },
  bitbucket: token => ({ BITBUCKET_BUILD_NUMBER: '7', BITBUCKET_STEP_OIDC_TOKEN: token }),
}
function program(bin: string, name: string, token: string): void {
  mkdirSync(bin, { recursive: true })
  writeFileSync(join(bin, name), `#!/bin/sh\necho '${token}'\n`)
  chmodSync(join(bin, name), 0o755)
}

/** The commands of a job in one shell, as runners do it; the URL of the broker is the test's. */
async function runJob(name: string, commands: readonly string[]): Promise<{ exit: number | null; err: string; house: House }> {
  if (!existsSync(ENTRY)) throw new Error('the command line is not compiled: npm run build')
  const { house, server, evidence } = await playedAs(name)
  const dir = mkdtempSync(join(tmpdir(), 'cf-ci-page-'))
  dirs.push(dir)
  writeFileSync(
    join(dir, 'report.mjs'),
    "if (!process.env.CURFEW_TOKEN || process.env.CURFEW_ID_TOKEN || process.env.BITBUCKET_STEP_OIDC_TOKEN) throw new Error('this is no job')\n",
  )
  writeFileSync(join(dir, 'deploy.sh'), '#!/bin/sh\ntest -n "$TOKEN"\n')
  chmodSync(join(dir, 'deploy.sh'), 0o755)
  const bin = join(dir, 'bin')
  const env = {
    ...{ HOME: dir, PATH: `${bin}:${ROOT}bin:${process.env.PATH}`, CURFEW_ISSUER: SERVER },
    ...{ CURFEW_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}` },
    ...(AROUND[name] as (typeof AROUND)[string])(await evidence(), bin),
  }
  const script = commands.filter(line => !line.startsWith('export CURFEW_URL=')).join('\n')
  const shell = spawn('bash', ['--noprofile', '--norc', '-euc', script], { cwd: dir, env, stdio: ['ignore', 'ignore', 'pipe'] })
  let err = ''
  shell.stderr.on('data', chunk => {
    err += chunk
  })
  const exit = await new Promise<number | null>(resolve => shell.once('close', resolve))
  return { exit, err, house }
}

describe('the jobs', () => {
  const curfewed = (command: string) => expect(command).toMatch(/^curfew run demo\/orders-ro --ttl 15m -- node report\.mjs$/)

  it.each([
    ['gitlab', () => file('.gitlab-ci.yml')?.tree.report.script],
    ['buildkite', () => [file('.buildkite/pipeline.yml')?.tree.steps[0].command]],
    ['circleci', () => [file('.circleci/config.yml')?.tree.jobs.report.steps[1].run]],
    ['bitbucket', () => file('bitbucket-pipelines.yml')?.tree.pipelines.branches.main[0].step.script],
  ] as const)('of %s runs as it is written, and its task is completed after it', async (name, commands) => {
    const { exit, err, house } = await runJob(name, commands() as string[])
    expect([exit, err]).toEqual([0, expect.stringMatching(/^crd_\w+, demo\/orders-ro, 15m, task tsk_\w+, [\s\S]*task completed after /)])
    const [task] = await house.app.store.tasks.list({ limit: 1 })
    expect(task).toMatchObject({ state: 'completed', endReason: 'completed', attestation: { issuer: name } })
  })

  it('of GitLab that takes the token by itself gives it back in its after_script', async () => {
    const { deploy } = file('.gitlab-ci.yml')?.tree ?? {}
    const { exit, err, house } = await runJob('gitlab', [...deploy.script, ...deploy.after_script])
    expect([exit, err]).toEqual([0, expect.stringContaining('completed')])
    expect((await house.app.store.tasks.list({ limit: 1 }))[0]).toMatchObject({ state: 'completed', capabilities: ['demo/orders-bearer'] })
  })

  it('ask their provider for what the command line looks for', () => {
    const gitlab = file('.gitlab-ci.yml')?.tree
    for (const job of ['report', 'deploy']) expect(gitlab[job].id_tokens).toEqual({ CURFEW_ID_TOKEN: { aud: SERVER } })
    const github = file('.github/workflows/report.yml')?.tree
    expect(github.permissions).toMatchObject({ 'id-token': 'write' })
    curfewed(github.jobs.report.steps[1].run)
    expect(github.jobs.report.env).toEqual({ CURFEW_URL: SERVER })
    const [azure] = file('azure-pipelines.yml')?.tree.steps ?? []
    curfewed(azure.script)
    expect(azure.env).toEqual({ CURFEW_URL: SERVER, SYSTEM_ACCESSTOKEN: '$(System.AccessToken)' })
    expect(file('bitbucket-pipelines.yml')?.tree.pipelines.branches.main[0].step.oidc).toEqual({ audiences: [SERVER] })
    const pod = file('pod.yaml')?.tree.spec
    curfewed(pod.containers[0].command.join(' '))
    const [mount] = pod.containers[0].volumeMounts
    const token = pod.volumes.find((v: { name: string }) => v.name === mount.name).projected.sources[0].serviceAccountToken
    expect([join(mount.mountPath, token.path), token.audience]).toEqual([KUBERNETES_FILE, SERVER])
    expect(dirname(KUBERNETES_FILE)).toBe(mount.mountPath)
  })
})

it('what is typed to find out works in a job', async () => {
  const { exit, err } = await runJob(
    'gitlab',
    blocksOf(PAGE, 'sh').flatMap(block => block.trim().split('\n')),
  )
  expect([exit, err]).toEqual([0, ''])
  for (const [, flag] of PAGE.matchAll(/`(--[a-z-]+)/g)) {
    const helps = await Promise.all(['run', 'token', 'whoami'].map(c => typed([c, '--help'], {})))
    if (!['--claim'].includes(flag as string))
      expect(
        helps.some(h => h.out.includes(flag as string)),
        flag,
      ).toBe(true)
  }
})
