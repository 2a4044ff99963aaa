/** Owns the configuration of a process: where each setting comes from, one judged and frozen result, and how it is shown without its secrets. */
import { readFileSync } from 'node:fs'
import { dirname, resolve as resolvePath } from 'node:path'
import { z } from 'zod'
import { type Problem, readTree, type Tree } from './config-file.js'
import { type ForwardAuthSettings, forwardAuthSettings } from './config-forward-auth.js'
import { keysAt, nearest, type Setting, settingsOf } from './config-keys.js'
import { type BuiltInEngine, type Config, configSchema, type SecretRef } from './config-schema.js'
import { type Audience, type Capability, type RevocationClass, weakerClass } from './domain/capability.js'
import { CurfewError } from './domain/errors.js'
import { Secret } from './domain/secret.js'

export type Env = Readonly<Record<string, string | undefined>>

export interface LoadOptions {
  /** The configuration file; default `CURFEW_CONFIG`, then `curfew.yaml` in the working directory. */
  readonly path?: string
  readonly env: Env
  /** Reads a file as UTF-8 text or throws. */
  readonly readFile: (path: string) => string
  /** Settings from the command line by dotted path; they win over everything. A secret's flag names a file. */
  readonly flags?: Readonly<Record<string, string | undefined>>
}

export interface LoadedConfig {
  /** Deeply frozen; secrets are resolved. */
  readonly config: Config
  readonly path: string
  /** By dotted path of every scalar: `flag`, `env NAME`, `file` or `default`. */
  readonly origins: ReadonlyMap<string, string>
  /** What is odd but no reason to refuse: for the log at start. */
  readonly warnings: readonly string[]
}

/** What every settings name is checked against, whatever file is loaded. */
const NAMES = configSchema(() => {
  throw new TypeError('this schema only tells names')
})
const SETTINGS = settingsOf(NAMES)

/**
 * Flag, `CURFEW_*`, `CURFEW_*_FILE`, file, default: the first that speaks wins. Paths start at the file's own directory.
 * @throws CurfewError(malformed) that lists every problem as `path: message`.
 */
export function load(options: LoadOptions): LoadedConfig {
  const path = resolvePath(options.path ?? (options.env.CURFEW_CONFIG || 'curfew.yaml'))
  const toPath = (relative: string) => resolvePath(dirname(path), relative)
  const { tree, problems } = readTree(readConfigFile(path, options.readFile))
  if (problems.length > 0) throw refusal(problems)

  const fromFile = new Set(leaves(tree).map(([at]) => at))
  const said = overrides(options, toPath)
  for (const item of said.values()) put(tree, item.setting.path.split('.'), item.value)

  const schema = configSchema((ref, ctx) => readSecret(ref, ctx, options, toPath), toPath)
  const result = schema.safeParse(tree)
  const found = [...said.problems, ...(result.success ? insecure(result.data.mode, options.env) : result.error.issues.flatMap(issue => tell(issue)))]
  if (found.length > 0 || !result.success) throw refusal(found.map(p => withOrigin(p, said)))

  const origins = new Map<string, string>()
  for (const [at] of leaves(result.data)) origins.set(at, said.get(at)?.origin ?? (isFrom(fromFile, at) ? 'file' : 'default'))
  return { config: freeze(result.data), path, origins, warnings: strayNames(options.env) }
}

/** The same from this process's own environment and files: what the entries call. */
export function loadFromProcess(options: { path?: string | undefined; flags?: LoadOptions['flags'] } = {}): LoadedConfig {
  return load({
    ...(options.path === undefined ? {} : { path: options.path }),
    ...(options.flags === undefined ? {} : { flags: options.flags }),
    env: process.env,
    readFile: path => readFileSync(path, 'utf8'),
  })
}

/** What `curfew forward-auth` is told: it has no configuration file. */
export const forwardAuthFromProcess = (): ForwardAuthSettings => forwardAuthSettings({ env: process.env, readFile: path => readFileSync(path, 'utf8') })

/** One line a scalar, `path = value`, with `  (origin)` when asked; secrets stay `[secret]`. */
export function show(loaded: LoadedConfig, options: { origin?: boolean } = {}): string[] {
  return leaves(loaded.config).map(([at, value]) => {
    const text = value instanceof Secret ? '[secret]' : JSON.stringify(value)
    return `${at} = ${text}${options.origin ? `  (${loaded.origins.get(at) ?? 'default'})` : ''}`
  })
}

/** How what an engine makes can die (`CredentialEngine.revocation`), known before any engine is built. */
export const ENGINE_CLASS = {
  jwt: 'instant',
  'vault-database': 'backend',
  'vault-pki': 'backend',
  'vault-ssh': 'expiry-only',
  'vault-token': 'backend',
  memory: 'backend',
} as const satisfies Record<BuiltInEngine, RevocationClass>

export function toAudiences(config: Config): Audience[] {
  return config.audiences.map(a => ({ name: a.name, uri: a.uri, senderConstrained: a.senderConstrained, alg: a.alg, introspects: a.secret !== undefined }))
}

/** The class shown is the weaker of the engine's and the audience's. */
export function toCapabilities(config: Config): Capability[] {
  const audiences = new Map(toAudiences(config).map(a => [a.name, a]))
  const classes = new Map<string, RevocationClass>([...Object.entries(ENGINE_CLASS), ...config.engines.map(e => [e.kind, e.revocation] as const)])
  const classOf = (engine: string) => {
    const found = classes.get(engine)
    if (!found) throw new TypeError(`the schema demands an engine ${engine}`)
    return found
  }
  return config.capabilities.map(({ audience, target: _target, ...rest }) => ({
    ...rest,
    audience: audience ?? null,
    revocation: weakerClass(classOf(rest.engine), audience === undefined ? null : (audiences.get(audience) ?? null)),
  }))
}

function readConfigFile(path: string, readFile: LoadOptions['readFile']): string {
  try {
    return readFile(path)
  } catch (cause) {
    throw new CurfewError(
      'malformed',
      `there is no readable configuration file at ${path}`,
      { reason: 'config_missing', next: 'write one from config/curfew.example.yaml, or name it with --config or CURFEW_CONFIG' },
      { cause },
    )
  }
}

interface Said {
  readonly setting: Setting
  readonly value: unknown
  readonly origin: string
}

/** What flags and environment say, by dotted path. */
function overrides(options: LoadOptions, toPath: (path: string) => string): Map<string, Said> & { problems: Problem[] } {
  const said = Object.assign(new Map<string, Said>(), { problems: [] as Problem[] })
  const byPath = new Map(SETTINGS.map(s => [s.path, s]))
  for (const setting of SETTINGS) {
    const { env, path } = setting
    const text = options.env[env]
    const file = options.env[`${env}_FILE`]
    // An empty variable is how compose files and charts say "not set".
    if (text) said.set(path, { setting, value: setting.type === 'secret' ? { env } : parseText(setting, text), origin: `env ${env}` })
    else if (file && setting.type === 'secret') said.set(path, { setting, value: { file }, origin: `env ${env}_FILE` })
    else if (file) {
      try {
        said.set(path, { setting, value: parseText(setting, options.readFile(toPath(file)).trim()), origin: `env ${env}_FILE` })
      } catch {
        said.problems.push({ path, message: `the file that ${env}_FILE names cannot be read` })
      }
    }
  }
  for (const [path, text] of Object.entries(options.flags ?? {})) {
    if (text === undefined) continue
    const setting = byPath.get(path)
    if (setting) said.set(path, { setting, value: setting.type === 'secret' ? { file: text } : parseText(setting, text), origin: 'flag' })
    else said.problems.push({ path, message: `is no setting${meant(path, [...byPath.keys()])}` })
  }
  return said
}

/** A number that does not parse stays a text, which the schema refuses: a bad limit must never mean "no limit" (H02). */
function parseText(setting: Setting, text: string): unknown {
  if (setting.type === 'number' && /^-?\d{1,15}$/.test(text)) return Number(text)
  if (setting.type === 'boolean' && (text === 'true' || text === 'false')) return text === 'true'
  return text
}

function put(tree: Tree, path: readonly string[], value: unknown): void {
  let at = tree
  for (const key of path.slice(0, -1)) {
    const next = at[key]
    if (typeof next === 'object' && next !== null && !Array.isArray(next)) at = next as Tree
    else {
      const made: Tree = {}
      at[key] = made
      at = made
    }
  }
  at[path.at(-1) as string] = value
}

function readSecret(ref: SecretRef, ctx: z.RefinementCtx, options: LoadOptions, toPath: (path: string) => string): Secret {
  const refuse = (message: string) => {
    ctx.addIssue({ code: 'custom', message })
    return z.NEVER
  }
  if ('env' in ref) {
    const value = options.env[ref.env]
    return value ? Secret.token(value) : refuse(`the environment variable ${ref.env} is not set`)
  }
  try {
    // Editors and `echo` end a file with one newline; it is never part of the secret.
    const value = options.readFile(toPath(ref.file)).replace(/\r?\n$/, '')
    return value ? Secret.token(value) : refuse(`the file ${ref.file} is empty`)
  } catch {
    return refuse(`the file ${ref.file} cannot be read`)
  }
}

/** Variables that turn off the verification of certificates for the whole process (K8). */
function insecure(mode: Config['mode'], env: Env): Problem[] {
  if (mode === 'dev') return []
  const found: Problem[] = []
  if (env.NODE_TLS_REJECT_UNAUTHORIZED === '0')
    found.push({ path: 'NODE_TLS_REJECT_UNAUTHORIZED', message: 'turns off TLS verification: unset it, and name a CA file instead' })
  if (env.VAULT_SKIP_VERIFY && !['0', 'false', 'f'].includes(env.VAULT_SKIP_VERIFY.toLowerCase()))
    found.push({ path: 'VAULT_SKIP_VERIFY', message: 'turns off TLS verification of Vault: unset it, and set vault.caFile instead' })
  return found
}

/** One problem of the schema in words: unknown keys with the one that was probably meant, unions by their nearest branch. */
function tell(issue: z.core.$ZodIssue, base: readonly PropertyKey[] = []): Problem[] {
  const at = [...base, ...issue.path]
  const path = at.map(String).join('.') || 'file'
  if (issue.code === 'unrecognized_keys') {
    const known = keysAt(NAMES, at)
    return issue.keys.map(key => ({ path: [...at, key].map(String).join('.'), message: `is no setting${meant(key, known)}` }))
  }
  if (issue.code === 'invalid_union' && 'options' in issue && issue.options)
    return [{ path, message: `must be one of ${issue.options.map(String).join(', ')}` }]
  if (issue.code === 'invalid_union' && issue.message === 'Invalid input') {
    const nearestBranch = [...issue.errors].sort((a, b) => weight(a) - weight(b))[0]
    if (nearestBranch) return nearestBranch.flatMap(inner => tell(inner, at))
  }
  if (issue.code === 'invalid_type' && issue.message.endsWith('received undefined')) return [{ path, message: 'is missing' }]
  return [{ path, message: issue.message.replace(/^Invalid (input|option|key|string): /, '') }]
}

/** A branch whose own keys are missing is further away than one that merely dislikes a value; one that wants another thing altogether, most. */
const weight = (issues: readonly z.core.$ZodIssue[]) => issues.reduce((sum, issue) => sum + distance(issue), 0)

function distance({ code, path }: z.core.$ZodIssue): number {
  if (code === 'unrecognized_keys') return 3
  if (path.length === 0) return 4
  return code === 'invalid_type' ? 2 : 1
}

function meant(name: string, known: readonly string[]): string {
  const guess = nearest(name, known)
  return guess ? `; did you mean ${guess}?` : ''
}

function withOrigin(problem: Problem, said: ReadonlyMap<string, Said>): Problem {
  const origin = said.get(problem.path)?.origin
  return origin ? { path: problem.path, message: `${problem.message} (from ${origin})` } : problem
}

function refusal(problems: readonly Problem[]): CurfewError {
  const lines = problems.map(p => `${p.path}: ${p.message}`)
  return new CurfewError('malformed', lines.join('\n'), { reason: 'config_invalid', ...(problems[0] ? { field: problems[0].path } : {}) })
}

/** Names that look like settings and are none: told, not refused, because an orchestrator writes variables of its own under a service's name. */
function strayNames(env: Env): string[] {
  const known = new Set(SETTINGS.flatMap(s => [s.env, `${s.env}_FILE`]))
  const sections = new Set(SETTINGS.filter(s => s.path.includes('.')).map(s => `CURFEW_${(s.path.split('.')[0] as string).toUpperCase()}_`))
  return Object.keys(env)
    .filter(name => !known.has(name) && [...sections].some(section => name.startsWith(section)))
    .map(name => ({ name, guess: nearest(name, [...known]) }))
    .filter(({ guess }) => guess !== null)
    .map(({ name, guess }) => `${name} is no setting; did you mean ${guess}?`)
}

/** Every scalar with its dotted path; an empty list or map is a scalar here, and so is a Secret. */
function leaves(value: unknown, path = ''): [string, unknown][] {
  if (typeof value !== 'object' || value === null || value instanceof Secret) return [[path, value]]
  const entries = Object.entries(value)
  if (entries.length === 0) return [[path, value]]
  return entries.flatMap(([key, child]) => leaves(child, path ? `${path}.${key}` : key))
}

/** A leaf is from the file when it stands there, or when a named secret of the file became it. */
const isFrom = (file: ReadonlySet<string>, at: string) => file.has(at) || file.has(`${at}.env`) || file.has(`${at}.file`)

function freeze<T>(value: T): T {
  if (typeof value !== 'object' || value === null || value instanceof Secret || Object.isFrozen(value)) return value
  for (const child of Object.values(value)) freeze(child)
  return Object.freeze(value)
}
