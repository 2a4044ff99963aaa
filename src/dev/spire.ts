/** Owns having a real SPIRE: server, agent, entries for workloads of this machine, and on demand its OIDC discovery provider. */
import { execFile } from 'node:child_process'
import { chmodSync, mkdirSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { type Absent, callerUids, type FoundSpire, findSpire, inherited, isAbsent } from './find.js'
import { socketDir, writePrivate } from './folder.js'
import { freePort } from './ports.js'
import { type Child, type ProcessMark, startProcess, until } from './process.js'
import { agentConfig, oidcConfig, serverConfig } from './spire-config.js'

const run = promisify(execFile)

export interface Spire {
  readonly trustDomain: string
  /** For people: "PATH" or a folder of the cache. */
  readonly origin: string
  readonly serverProgram: string
  readonly agentProgram: string
  readonly version: string
  /** What workloads ask: `SPIFFE_ENDPOINT_SOCKET` is `unix://` and this. */
  readonly agentSocket: string
  /** Whoever can speak to it is administrator. */
  readonly serverSocket: string
  /** The trust bundle in SPIFFE's format (a JWK Set), as of the start or of the last `refreshBundle`. */
  readonly bundleFile: string
  /** Its X.509 part: the `ca` for asking `bundleEndpoint`. */
  readonly bundlePem: string
  /** Profile `https_spiffe`: the certificate names `spiffe://<trust domain>/spire/server` and no host. */
  readonly bundleEndpoint: string
  /** Of the OIDC discovery provider, and the `iss` of the tokens; only when asked for. */
  readonly oidcIssuer?: string
  readonly marks: readonly ProcessMark[]
  /** Removed by `stop`; whoever keeps SPIRE running past its own end removes them. */
  readonly socketFolder: string
  /** Makes the workloads of a user an identity; answers the entry's id. The agent learns of it within about a second. */
  register(path: string, uid: number): Promise<string>
  unregister(entry: string): Promise<void>
  /** A JWT-SVID of the calling user, retried until the agent has it: "healthy" does not mean that entries are there. */
  fetchJwt(audience: string, options?: { path?: string; signal?: AbortSignal }): Promise<string>
  refreshBundle(): Promise<void>
  /** `spire-server <command>` on this server (`['localauthority', 'jwt', 'prepare']`); its output. */
  admin(args: readonly string[]): Promise<string>
  /** Ends the agent alone, as when a node goes away. */
  stopAgent(): Promise<void>
  stop(): Promise<void>
}

export interface SpireOptions {
  readonly dir: string
  readonly trustDomain?: string
  /** Identities for us and for the user behind sudo. */
  readonly workloads?: readonly string[]
  readonly oidc?: boolean
  readonly keep?: boolean
  readonly signal?: AbortSignal | undefined
}

const AGENT = '/agent/local'

export async function startSpire(options: SpireOptions): Promise<Spire | Absent> {
  const found = findSpire()
  if (isAbsent(found)) return found
  if (options.oidc && !found.oidc) return { absent: 'oidc-discovery-provider is not on the PATH: npm run real builds it' }
  const running: Child[] = []
  const sockets = socketDir()
  const stop = async () => {
    for (const child of running.toReversed()) await child.stop()
    rmSync(sockets, { recursive: true, force: true })
  }
  try {
    return await startAll(options, found, sockets, running, stop)
  } catch (cause) {
    await stop()
    throw cause
  }
}

async function startAll(options: SpireOptions, found: FoundSpire, sockets: string, running: Child[], stop: () => Promise<void>): Promise<Spire> {
  const dir = resolve(options.dir)
  const trustDomain = options.trustDomain ?? 'example.org'
  // Its keys are in memory, so nothing of an earlier run there is of use, and old entries would be in the way.
  for (const name of ['server', 'agent']) {
    rmSync(join(dir, name), { recursive: true, force: true })
    mkdirSync(join(dir, name), { recursive: true, mode: 0o700 })
  }
  const inSockets = { agentSocket: join(sockets, 'agent.sock'), serverSocket: join(sockets, 'admin', 's.sock') }
  mkdirSync(join(sockets, 'admin'), { mode: 0o700 })
  const ports = { api: await freePort(), bundle: await freePort(), oidc: options.oidc ? await freePort() : 0 }
  const oidcIssuer = options.oidc ? `http://127.0.0.1:${ports.oidc}` : undefined
  const place = { dir, trustDomain, ports, oidcIssuer, ...inSockets }
  const bundleFile = join(dir, 'bundle.json')
  const bundlePem = join(dir, 'bundle.pem')
  const common = { dir, keep: options.keep, signal: options.signal, deadlineMs: 30_000, stopWithinMs: 5_000 }

  const admin = async (args: readonly string[]) => {
    const { stdout } = await run(found.server, [...args, '-socketPath', place.serverSocket], { env: inherited(), timeout: 15_000 })
    return stdout
  }
  const launch = async (name: string, command: string, args: readonly string[], config: string, ready: (signal: AbortSignal) => Promise<boolean>) => {
    writePrivate(join(dir, `${name}.conf`), config)
    const child = await startProcess({ ...common, name, command, args: [...args, '-config', join(dir, `${name}.conf`)], ready })
    running.push(child)
    return child
  }
  const refreshBundle = async () => {
    writePrivate(bundleFile, await admin(['bundle', 'show', '-format', 'spiffe']))
    writePrivate(bundlePem, await admin(['bundle', 'show', '-format', 'pem']))
    for (const file of [bundleFile, bundlePem]) chmodSync(file, 0o644) // public keys
  }
  const id = (path: string) => `spiffe://${trustDomain}${path}`
  const register = async (path: string, uid: number) => {
    const made = await admin(['entry', 'create', '-parentID', id(AGENT), '-spiffeID', id(path), '-selector', `unix:uid:${uid}`])
    return /Entry ID\s*:\s*(\S+)/.exec(made)?.[1] ?? ''
  }

  await launch('spire-server', found.server, ['run'], serverConfig(place), async () => (await admin(['healthcheck'])).includes('healthy'))
  await refreshBundle()
  for (const path of options.workloads ?? ['/ci/orders']) for (const uid of callerUids()) await register(path, uid)
  const token = /Token: (\S+)/.exec(await admin(['token', 'generate', '-spiffeID', id(AGENT)]))?.[1] ?? ''
  // In its file and not among its arguments; it is single-use in any case.
  const agent = await launch('spire-agent', found.agent, ['run'], agentConfig(place, bundlePem, token), async () => {
    const { stdout } = await run(found.agent, ['healthcheck', '-socketPath', place.agentSocket], { env: inherited(), timeout: 5_000 })
    return stdout.includes('healthy')
  })
  if (oidcIssuer && found.oidc) {
    await launch('spire-oidc', found.oidc, [], oidcConfig(place), async signal => (await fetch(`${oidcIssuer}/keys`, { signal })).ok)
  }

  const fetchJwt: Spire['fetchJwt'] = async (audience, asked = {}) => {
    let svid = ''
    const args = [
      'api',
      'fetch',
      'jwt',
      '-socketPath',
      place.agentSocket,
      '-audience',
      audience,
      '-output',
      'json',
      ...(asked.path ? ['-spiffeID', id(asked.path)] : []),
    ]
    await until(
      async () => {
        const { stdout } = await run(found.agent, args, { env: inherited(), timeout: 5_000 })
        svid = tokenIn(stdout)
        return svid !== ''
      },
      { what: 'a JWT-SVID', deadlineMs: 15_000, everyMs: 100, signal: asked.signal ?? options.signal },
    )
    return svid
  }
  const { stderr, stdout } = await run(found.server, ['--version'], { env: inherited() })
  return {
    trustDomain,
    origin: found.origin,
    serverProgram: found.server,
    agentProgram: found.agent,
    version: /(?<!\d)\d+\.\d+\.\d+/.exec(stdout + stderr)?.[0] ?? 'unknown',
    agentSocket: place.agentSocket,
    serverSocket: place.serverSocket,
    bundleFile,
    bundlePem,
    bundleEndpoint: `https://127.0.0.1:${ports.bundle}`,
    ...(oidcIssuer && { oidcIssuer }),
    marks: running.map(child => child.mark),
    socketFolder: sockets,
    register,
    unregister: async entry => {
      await admin(['entry', 'delete', '-entryID', entry])
    },
    fetchJwt,
    refreshBundle,
    admin,
    stopAgent: agent.stop,
    stop,
  }
}

/** `[{ "svids": [{ "svid": … }] }, { "bundles": … }]` */
function tokenIn(output: string): string {
  const parts = JSON.parse(output) as { svids?: { svid?: string }[] }[]
  return parts.flatMap(part => part.svids ?? []).find(each => each.svid)?.svid ?? ''
}
