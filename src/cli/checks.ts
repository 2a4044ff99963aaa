/** Owns what `curfew doctor` looks at, in the order in which one thing needs the other. */
import { existsSync, readFileSync } from 'node:fs'
import type { Config } from '../config-schema.js'
import { within } from '../domain/deadline.js'
import { withoutTrailing } from '../domain/trailing.js'
import type { Demands } from '../engines/vault-roles.js'
import { checkPolicies } from './config.js'
import type { Finding } from './doctor.js'
import { type LocalFlags, type LocalStore, loadConfig, openLocal } from './local.js'
import type { Io, Printer } from './output.js'

const OLDEST_NODE = [20, 20] as const
/** Tokens carry the store's time; people and proofs carry the host's. Milliseconds. */
const SKEW_MS = 2_000
const KEY_DAYS = 90
const OVERDUE_SECONDS = 5
const ANSWER_MS = 3_000

/** Libraries' own warnings become findings of their own, or nothing. */
const SILENT: Printer = { format: 'json', quiet: true, data: () => {}, say: () => {}, warn: () => {} }

export async function* examine(flags: LocalFlags, io: Io): AsyncGenerator<Finding> {
  yield node()
  let config: Config
  try {
    const loaded = await loadConfig(flags, io)
    config = loaded.config
    yield { verdict: 'ok', area: 'config', detail: `${loaded.path}, mode ${config.mode}` }
    for (const warning of loaded.warnings) yield { verdict: 'warn', area: 'config', detail: warning }
    if (config.mode === 'dev')
      yield { verdict: 'warn', area: 'config', detail: 'dev mode: http, memory kinds and loopback are allowed', fix: 'set mode: production' }
  } catch (error) {
    yield { ...failure('config', error), fix: nextOf(error) ?? 'curfew config check' }
    return
  }
  yield await policies(config)
  yield* store(config)
  yield* redis(config)
  yield* vault(config, io)
  yield* broker(config)
}

function node(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  const old = major < OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor < OLDEST_NODE[1])
  const detail = `Node ${process.versions.node}`
  return old ? { verdict: 'FAIL', area: 'node', detail, fix: `install Node ${OLDEST_NODE.join('.')} or later` } : { verdict: 'ok', area: 'node', detail }
}

async function policies(config: Config): Promise<Finding> {
  try {
    const { rules } = await checkPolicies(config, SILENT)
    return { verdict: 'ok', area: 'policy', detail: `${config.policies.dir} compiles, ${rules}` }
  } catch (error) {
    return failure('policy', error)
  }
}

async function* store(config: Config): AsyncGenerator<Finding> {
  if (config.store.kind === 'memory') {
    yield { verdict: 'warn', area: 'store', detail: 'in memory: it forgets every revocation at exit', fix: 'set store.kind: postgres' }
    return
  }
  if (config.store.kind === 'pglite' && !existsSync(config.store.dir)) {
    yield { verdict: 'ok', area: 'store', detail: `pglite, ${config.store.dir} is not there yet: the first serving process makes it` }
    return
  }
  let local: LocalStore
  try {
    local = await openLocal(config, SILENT)
  } catch (error) {
    const fix = nextOf(error)
    yield { ...failure('store', error), ...(fix === undefined ? {} : { fix }) }
    return
  }
  try {
    const asked = performance.now()
    await local.store.ping()
    yield { verdict: 'ok', area: 'store', detail: `${config.store.kind}, answers in ${Math.round(performance.now() - asked)} ms, migrations are ours` }
    if (config.store.kind === 'pglite')
      yield { verdict: 'warn', area: 'store', detail: 'embedded: one process, and no promise across a loss of power', fix: 'set store.kind: postgres' }
    const skew = local.store.clock.now().getTime() - Date.now()
    const off = `${Math.abs(Math.round(skew))} ms apart`
    yield Math.abs(skew) > SKEW_MS
      ? { verdict: 'warn', area: 'clock', detail: `this host and the store are ${off}; the store decides`, fix: 'let both follow one time server' }
      : { verdict: 'ok', area: 'clock', detail: `this host and the store are ${off}` }
    yield* keys(local)
    const { overdueSeconds, stuck, revoking, active } = await local.store.credentials.counts()
    const work = `overdue ${overdueSeconds.toFixed(0)} s, stuck ${stuck}, revoking ${revoking}, active ${active}`
    if (overdueSeconds > OVERDUE_SECONDS)
      yield { verdict: 'FAIL', area: 'work', detail: work, fix: 'start a worker: curfew worker; then look: curfew list --state revoking' }
    else if (stuck > 0) yield { verdict: 'FAIL', area: 'work', detail: work, fix: 'look at each: curfew list --state stuck' }
    else yield { verdict: 'ok', area: 'work', detail: work }
    const operators = await local.store.operators.list()
    if (!operators.some(o => o.role === 'admin' && o.disabledAt === null))
      yield { verdict: 'warn', area: 'operators', detail: 'there is no admin', fix: 'curfew operator add NAME --role admin' }
  } catch (error) {
    yield failure('store', error)
  } finally {
    await local.close()
  }
}

async function* keys(local: LocalStore): AsyncGenerator<Finding> {
  const rows = await local.store.keys.list()
  const now = local.store.clock.now().getTime()
  const current = rows.filter(k => k.state === 'current')
  if (current.length === 0) {
    yield { verdict: 'ok', area: 'keys', detail: 'none yet: the first serving process makes them' }
    return
  }
  const { openRing } = await import('../signers/key-ring.js')
  const ages = current.map(k => (now - k.activatesAt.getTime()) / 86_400_000)
  const old = current.filter((_, i) => (ages[i] as number) > KEY_DAYS)
  for (const key of old) {
    yield {
      verdict: 'FAIL',
      area: 'keys',
      detail: `${key.keyClass} key ${key.kid.slice(0, 8)} is ${Math.floor((now - key.activatesAt.getTime()) / 86_400_000)} days old (limit ${KEY_DAYS})`,
      fix: 'curfew keys rotate',
    }
  }
  try {
    // Whether the master key of this configuration opens what the store holds.
    const ring = await openRing({
      keys: { ...local.store.keys, list: async () => rows, promote: async () => {}, add: () => Promise.reject(new TypeError('a look makes no key')) },
      clock: local.store.clock,
      wrapper: local.wrapper,
      publishAheadSeconds: 0,
      retainSeconds: { access: 0, task: 0, receipt: 0 },
      refreshMs: 0,
    })
    ring.close()
    if (old.length === 0)
      yield { verdict: 'ok', area: 'keys', detail: `${current.length} sign, the oldest for ${Math.floor(Math.max(...ages))} days (limit ${KEY_DAYS})` }
  } catch (error) {
    yield { ...failure('keys', error), fix: 'use the master key (or transit key) that this store was made with' }
  }
}

async function* redis(config: Config): AsyncGenerator<Finding> {
  if (config.queue.kind === 'memory') {
    yield { verdict: 'ok', area: 'redis', detail: 'not used: revocations ride on poll and sweep' }
    return
  }
  const { checkRedis, closeRedis, producerRedis, readyWithin } = await import('../clients/redis.js')
  const log = { info: () => {}, warn: () => {}, error: () => {} }
  const connection = producerRedis(config.queue.url.reveal().token as string, log)
  try {
    await readyWithin(connection, ANSWER_MS)
    const asked = performance.now()
    const report = await checkRedis(connection)
    const took = `${Math.max(1, Math.round(performance.now() - asked))} ms`
    for (const problem of report.problems)
      yield { verdict: 'FAIL', area: 'redis', detail: problem, fix: 'in redis.conf: maxmemory-policy noeviction, on a primary of its own' }
    if (report.ok) yield { verdict: 'ok', area: 'redis', detail: `${report.detail}, ${took}` }
    for (const warning of report.warnings)
      yield { verdict: 'warn', area: 'redis', detail: warning, ...(warning.includes('append-only') ? { fix: 'in redis.conf: appendonly yes' } : {}) }
  } catch {
    yield { verdict: 'FAIL', area: 'redis', detail: 'does not answer: revocations are late by at most one sweep', fix: 'check queue.url, and that Redis runs' }
  } finally {
    await closeRedis(connection)
  }
}

async function* vault(config: Config, io: Io): AsyncGenerator<Finding> {
  if (!config.vault) return
  const asked = performance.now()
  const answer = await vaultGet(config, 'sys/health', undefined)
  if (answer === null) {
    yield { verdict: 'FAIL', area: 'vault', detail: `${config.vault.address} does not answer`, fix: 'check vault.address and vault.caFile' }
    return
  }
  const { sealed, standby, version } = answer.body as { sealed?: boolean; standby?: boolean; version?: string }
  if (sealed !== false) yield { verdict: 'FAIL', area: 'vault', detail: `${config.vault.address} is sealed or not initialised`, fix: 'vault operator unseal' }
  else
    yield {
      verdict: 'ok',
      area: 'vault',
      detail: `${version ?? 'unknown version'}, ${standby ? 'standby' : 'active'}, ${Math.round(performance.now() - asked)} ms`,
    }
  if (sealed !== false) return
  const roles = config.capabilities
    .filter(c => c.engine in ROLE_MOUNTS)
    .map(c => ({ ...c, mount: word(c.parameters.mount) ?? (ROLE_MOUNTS[c.engine] as string), role: word(c.parameters.role) }))
  const token = io.env.VAULT_TOKEN
  if (roles.length > 0 && !token) {
    yield { verdict: 'ok', area: 'vault', detail: 'roles not looked at: set VAULT_TOKEN of somebody who may read them' }
    return
  }
  for (const c of roles) if (c.role !== null) yield* roleFindings(config, { ...c, role: c.role }, token as string)
}

/** The kinds that have a role, and where their mount is unless a capability says otherwise. */
const ROLE_MOUNTS: Readonly<Record<string, string>> = { 'vault-database': 'database', 'vault-pki': 'pki', 'vault-ssh': 'ssh' }

/** Writing a role of certificates sets all that is not named back to what Vault would have; one of keys cannot be patched. */
const PUT_RIGHT: Readonly<Record<string, string>> = { 'vault-database': 'vault write', 'vault-pki': 'vault patch', 'vault-ssh': 'write the whole role again:' }

async function* roleFindings(config: Config, capability: Demands & { readonly mount: string; readonly role: string }, token: string): AsyncGenerator<Finding> {
  const { engine, mount, role } = capability
  const path = `${mount}/roles/${role}`
  const answer = await vaultGet(config, path, token)
  if (answer?.status !== 200) {
    yield { verdict: 'warn', area: 'vault', detail: `role ${role}: it cannot be read (${answer?.status ?? 'no answer'})` }
    return
  }
  const { faultsOfRole } = await import('../engines/vault-roles.js')
  const faults = faultsOfRole(capability, (answer.body as { data?: Record<string, unknown> }).data ?? {})
  for (const { fault, fix } of faults) yield { verdict: 'FAIL', area: 'vault', detail: `role ${role} ${fault}`, fix: `${PUT_RIGHT[engine]} ${path} ${fix}` }
  if (faults.length === 0)
    yield { verdict: 'ok', area: 'vault', detail: engine === 'vault-database' ? `role ${role} ends open sessions` : `role ${role} makes what can be ended` }
}

async function vaultGet(config: Config, path: string, token: string | undefined): Promise<{ status: number; body: unknown } | null> {
  const { vault } = config
  if (!vault) return null
  try {
    const { Agent, fetch: undiciFetch } = await import('undici')
    const dispatcher = new Agent({ connect: vault.caFile === undefined ? {} : { ca: readFileSync(vault.caFile, 'utf8') } })
    const response = await undiciFetch(`${withoutTrailing(vault.address, '/')}/v1/${path}`, {
      dispatcher,
      redirect: 'error',
      signal: within(ANSWER_MS),
      headers: {
        ...(token === undefined ? {} : { 'X-Vault-Token': token }),
        ...(vault.namespace === undefined ? {} : { 'X-Vault-Namespace': vault.namespace }),
      },
    })
    const body: unknown = await response.json().catch(() => ({}))
    await dispatcher.close()
    return { status: response.status, body }
  } catch {
    return null
  }
}

/** The serving process beside us, when there is one: its own word on the internal listener. */
async function* broker(config: Config): AsyncGenerator<Finding> {
  if (config.server.internal.endsWith(':0')) return
  try {
    const response = await fetch(`http://${config.server.internal}/readyz?verbose`, { redirect: 'error', signal: within(ANSWER_MS) })
    const { status, lines } = (await response.json()) as { status: string; lines?: { name: string; status: string; detail: string }[] }
    const bad = (lines ?? []).filter(l => l.status !== 'ok')
    yield {
      verdict: status === 'ok' ? 'ok' : status === 'degraded' ? 'warn' : 'FAIL',
      area: 'broker',
      detail: bad.length === 0 ? `serving here, ${status}` : bad.map(l => `${l.name}: ${l.detail}`).join('; '),
    }
  } catch {
    yield { verdict: 'ok', area: 'broker', detail: `none answers on ${config.server.internal} of this host` }
  }
}

const word = (value: unknown) => (typeof value === 'string' && /^[A-Za-z0-9_-]{1,100}$/.test(value) ? value : null)

/** Only what was written to be shown: an inner error's own words stay away. */
function failure(area: string, error: unknown): Finding {
  const told = error instanceof Error && (error.name === 'CurfewError' || error.name === 'CliError')
  return { verdict: 'FAIL', area, detail: told ? (error as Error).message.split('\n').join('; ') : 'failed in a way that nobody foresaw' }
}

function nextOf(error: unknown): string | undefined {
  const facts = (error as { facts?: { next?: unknown } } | null)?.facts
  return typeof facts?.next === 'string' ? facts.next : undefined
}
