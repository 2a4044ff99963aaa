/** Owns a desk to type at: a home of its own, evidence on file, the program in this process or as a real one. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import type { Io } from '../../../src/cli/output.js'
import { run } from '../../../src/cli/program.js'
import { newOperatorToken } from '../../../src/domain/operator-token.js'
import { type FakeBroker, fakeBroker } from './fake-broker.js'

export const ENTRY = fileURLToPath(new URL('../../../dist/src/cli/main.js', import.meta.url))

export interface Typed {
  readonly exit: number
  readonly out: string
  readonly err: string
}

export interface Started {
  readonly child: ChildProcess
  readonly pid: number
  /** Exit code, or 128 + n for a death by signal as a shell would say. */
  readonly ended: Promise<Typed>
  out(): string
  err(): string
}

/** The program in this process, with its output caught. */
export async function typed(argv: readonly string[], env: Io['env'], more: Partial<Io> = {}): Promise<Typed> {
  let out = ''
  let err = ''
  const exit = await run(argv, {
    env,
    out: text => {
      out += text
    },
    err: text => {
      err += text
    },
    colour: false,
    ...more,
  })
  return { exit, out, err }
}

/** What stands on standard input, without a person. */
export const piped = (text: string): Partial<Io> => ({ input: { terminal: false, text: async () => text, line: async () => text } })

/** A person at a terminal, who answers so. */
export const person = (answer: string | null): Partial<Io> => ({
  input: { terminal: true, text: async () => answer ?? '', line: async () => answer },
  watched: true,
})

export interface Desk {
  readonly broker: FakeBroker
  readonly home: string
  /** What nobody but its one channel may ever show. */
  readonly canaries: string[]
  readonly evidenceFile: string
  env: Record<string, string | undefined>
  type(...argv: string[]): Promise<Typed>
  typeWith(more: Partial<Io>, ...argv: string[]): Promise<Typed>
  /** A real process, without a terminal. */
  start(argv: readonly string[], env?: Record<string, string>): Started
  evidence(claims?: Record<string, unknown>): Promise<string>
  close(): Promise<void>
}

export async function desk(): Promise<Desk> {
  const home = mkdtempSync(join(tmpdir(), 'curfew-desk-'))
  const operatorToken = newOperatorToken().reveal().token as string
  const broker = await fakeBroker({ operatorToken })
  const { privateKey } = await generateKeyPair('ES256', { extractable: true })
  const evidence: Desk['evidence'] = claims =>
    new SignJWT({ iss: 'https://ci.example', sub: 'github:repository_id=456789', aud: broker.issuer, jti: randomUUID(), ...claims })
      .setProtectedHeader({ alg: 'ES256', typ: 'JWT' })
      .setIssuedAt()
      .setExpirationTime('5m')
      .sign(privateKey)
  const evidenceFile = join(home, 'svid.jwt')
  const first = await evidence()
  writeFileSync(evidenceFile, `${first}\n`)
  const secrets = [...broker.offers.values()].map(o => o.secret.token ?? o.secret.PGPASSWORD).filter(s => s !== undefined)
  const started: ChildProcess[] = []

  const here: Desk = {
    broker,
    home,
    canaries: [operatorToken, first, ...secrets, (await exportJWK(privateKey)).d as string],
    evidenceFile,
    env: { HOME: home, PATH: process.env.PATH, CURFEW_URL: broker.url },
    type: (...argv) => typed(argv, here.env),
    typeWith: (more, ...argv) => typed(argv, here.env, more),
    start(argv, env = {}) {
      if (!existsSync(ENTRY)) throw new Error('the command line is not compiled: npm run build')
      const child = spawn(process.execPath, [ENTRY, ...argv], {
        env: { ...(here.env as Record<string, string>), ...env },
        stdio: ['ignore', 'pipe', 'pipe'],
        detached: true,
      })
      started.push(child)
      let out = ''
      let err = ''
      child.stdout.on('data', chunk => {
        out += chunk
      })
      child.stderr.on('data', chunk => {
        err += chunk
      })
      return {
        child,
        pid: child.pid as number,
        out: () => out,
        err: () => err,
        ended: new Promise(resolve => child.once('close', (code, signal) => resolve({ exit: code ?? (signal === 'SIGKILL' ? 137 : 128), out, err }))),
      }
    },
    evidence,
    async close() {
      for (const child of started) if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL')
      await broker.close()
      rmSync(home, { recursive: true, force: true })
    },
  }
  return here
}

/** A receipt's claims as the contract has them; `credentials` are counts, all else is not yet. */
export function claims(credentials: Partial<Record<'selected' | 'revoked' | 'revoking' | 'stuck', number>>, more: Record<string, unknown> = {}) {
  return {
    iss: 'https://curfew.example',
    iat: 1_795_514_764,
    jti: 'rcp_0',
    sub: 'rev_0',
    selector: {},
    reason: 'requested',
    message: null,
    actor: { kind: 'operator', id: 'opr_1' },
    seq: 88_121,
    refused_since: '2026-11-24T10:06:02.113Z',
    tasks: 0,
    credentials: { selected: 0, revoked: 0, revoking: 0, stuck: 0, ...credentials },
    probed: {},
    not_probed: 0,
    guards: { applied: 0, of: 0 },
    exposed: [],
    exposed_until: null,
    final: false,
    ...more,
  }
}

export async function until(what: () => boolean, ms = 10_000): Promise<void> {
  const end = performance.now() + ms
  while (!what()) {
    if (performance.now() > end) throw new Error('it did not come to pass in time')
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}
