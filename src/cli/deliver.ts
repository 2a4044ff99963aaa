/**
 * Owns how issued credentials reach the child of `curfew run`: by its environment, never by arguments; what is the content of a file
 * (a certificate, a key) by a private folder that is gone when the child is.
 */
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { CliError, EXIT, usage } from './exit.js'
import type { Held, Issued } from './holder.js'
import { mayHandOver } from './steering.js'

type Env = Readonly<Record<string, string | undefined>>

/** What libpq would mix with ours: a host address or a service of the caller's would send the password somewhere else. */
const LIBPQ = ['PGHOST', 'PGHOSTADDR', 'PGPORT', 'PGDATABASE', 'PGUSER', 'PGPASSWORD', 'PGPASSFILE', 'PGSERVICE', 'PGSERVICEFILE', 'PGAPPNAME']
/** What would send a Vault token of ours to another Vault. */
const VAULT = ['VAULT_ADDR', 'VAULT_AGENT_ADDR', 'VAULT_PROXY_ADDR', 'VAULT_HTTP_PROXY', 'VAULT_NAMESPACE', 'VAULT_TOKEN']
/** The child gets what the task was granted, not what the task was opened with. */
const OURS = ['CURFEW_ID_TOKEN', 'CURFEW_OPERATOR_TOKEN', 'CURFEW_SIGNAL_SECRET']

/** db/orders-ro → DB_ORDERS_RO */
export function suffixOf(capability: string): string {
  return capability.toUpperCase().replace(/[^A-Z0-9]/g, '_')
}

/** Two capabilities whose variables would have one name cannot be told apart by the child. */
export function refuseCollisions(capabilities: readonly string[]): void {
  const seen = new Map<string, string>()
  for (const capability of capabilities) {
    const other = seen.get(suffixOf(capability))
    if (other === capability) throw usage(`${capability} is named twice`)
    if (other !== undefined)
      throw usage(`${other} and ${capability} would have the same variables`, 'run them one inside the other, the outer one with --keep-evidence')
    seen.set(suffixOf(capability), capability)
  }
}

export interface Delivery {
  readonly env: Env
  /** What was issued anew, into the same files, each whole at any instant: those who read after they were told find what belongs together. */
  rewrite(issued: readonly Issued[]): void
  /** Takes the files back; nothing when there are none. */
  remove(): void
}

export interface DeliveryOptions {
  /** The variables that evidence came by: the child has no way to more of it, unless it was asked for. */
  readonly evidence?: { readonly variables: readonly string[]; readonly keep: boolean }
  readonly proofKey: boolean
  /** Also as a file `env` that a shell reads, whose path stands in CURFEW_ENV_FILE. */
  readonly envFile?: boolean
}

/** What tools look for beside a name: `ssh -i ssh_key` finds the certificate by itself. */
const FILE_NAMES: ReadonlyMap<string, string> = new Map([
  ['ssh_key', 'ssh_key'],
  ['ssh_certificate', 'ssh_key-cert.pub'],
])
/** What is a variable already, in capitals, stays as it is; of the rest only a token is no file. */
const isVariable = (field: string) => field === 'token' || !/^[a-z_]+$/.test(field)
const variableOf = (field: string) => (isVariable(field) ? (field === 'token' ? 'CURFEW_TOKEN' : field) : `CURFEW_${field.toUpperCase()}_FILE`)

/**
 * Every field as `<NAME>_<CAPABILITY>`, and the fields of a credential by their plain names as well, unless one before it has taken any of
 * them: the user of one database and the host of another would be nobody's. A field in capitals is a variable (`PGUSER`), `token` is
 * `CURFEW_TOKEN`, and any other is the content of a file, whose path stands in `CURFEW_<FIELD>_FILE`. `CURFEW_TASK` and
 * `CURFEW_CREDENTIAL` say where the child is.
 */
export function deliver(env: Env, held: Held, issued: readonly Issued[], options: DeliveryOptions): Delivery {
  const folder = privateFolder(env)
  try {
    const given = variablesOf(held, issued, options, folder)
    const removed = new Set([...OURS, ...('PGHOST' in given || 'PGUSER' in given ? LIBPQ : []), ...('VAULT_TOKEN' in given ? VAULT : [])])
    for (const name of options.evidence?.variables ?? []) options.evidence?.keep ? removed.delete(name) : removed.add(name)
    return {
      env: { ...Object.fromEntries(Object.entries(env).filter(([name]) => !removed.has(name))), ...given },
      rewrite: next => void variablesOf(held, next, options, folder),
      remove: folder.remove,
    }
  } catch (error) {
    folder.remove()
    throw error
  }
}

/** What the child is given, the files written. */
function variablesOf(held: Held, issued: readonly Issued[], options: DeliveryOptions, folder: Folder): Readonly<Record<string, string>> {
  const given: Record<string, string> = {}
  for (const { credential, secret } of issued) {
    const suffix = suffixOf(credential.capability)
    const fields = Object.entries(secret).map(([name, value]) => [name, variableOf(name), value] as const)
    const steering = fields.find(([name]) => isVariable(name) && name !== 'token' && !mayHandOver(name))
    if (steering) throw refused(credential.capability, steering[0])
    const isFirst = fields.every(([, variable]) => given[variable] === undefined)
    const shown = fields.map(([name, variable, value]) =>
      isVariable(name)
        ? ([variable, value] as const)
        : ([variable, folder.put(join(suffix.toLowerCase(), FILE_NAMES.get(name) ?? `${name}.pem`), value)] as const),
    )
    for (const [name, value] of [['CURFEW_CREDENTIAL', credential.id] as const, ...shown]) {
      if (given[`${name}_${suffix}`] !== undefined)
        throw usage(`two variables would be called ${name}_${suffix}`, 'run one command inside the other, the outer one with --keep-evidence')
      given[`${name}_${suffix}`] = value
    }
    if (isFirst) Object.assign(given, Object.fromEntries(shown))
    given.CURFEW_CREDENTIAL ??= credential.id
  }
  given.CURFEW_TASK = held.task.id
  if (options.proofKey) given.CURFEW_PROOF_KEY = JSON.stringify(held.key.exportPrivate())
  // In a folder, as all of them: no file of a credential has this name, whatever its capability is called.
  return options.envFile ? { ...given, CURFEW_ENV_FILE: folder.put(join('shell', 'env'), shellLines(given)) } : given
}

const refused = (capability: string, field: string) =>
  new CliError(EXIT.unexpected, {
    code: 'unexpected_answer',
    detail: `a credential of ${capability} would set ${JSON.stringify(field).slice(0, 70)}, which could steer what the command does: it was not started`,
  })

/** `NAME='value'` lines, for `set -a; . "$CURFEW_ENV_FILE"`: between single quotes a shell reads all but the quote itself as it stands. */
function shellLines(variables: Readonly<Record<string, string>>): string {
  return Object.entries(variables)
    .map(([name, value]) => `${name}='${value.replaceAll("'", "'\\''")}'\n`)
    .join('')
}

interface Folder {
  /** @returns the path. What is there already is replaced as one. */
  put(name: string, content: string): string
  remove(): void
}

/** Made with its first file, for its owner alone: in memory where the system offers such a place. */
function privateFolder(env: Env): Folder {
  let root: string | null = null
  const remove = () => {
    if (root !== null) rmSync(root, { recursive: true, force: true })
    root = null
    process.off('exit', remove)
  }
  return {
    put(name, content) {
      if (root === null) {
        const runtime = env.XDG_RUNTIME_DIR
        root = mkdtempSync(join(runtime && existsSync(runtime) ? runtime : tmpdir(), 'curfew-run-'))
        // Whatever ends us short of SIGKILL takes them along.
        process.on('exit', remove)
      }
      const path = join(root, name)
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
      // Under a name of its own first: whoever reads sees the old content or the new, never half of it.
      rmSync(`${path}.new`, { force: true })
      writeFileSync(`${path}.new`, content, { mode: 0o600, flag: 'wx' })
      renameSync(`${path}.new`, path)
      return path
    },
    remove,
  }
}
