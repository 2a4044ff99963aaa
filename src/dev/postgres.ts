/** Owns having a real PostgreSQL: a cluster of its own in a folder, on loopback and a free port. */
import { execFile } from 'node:child_process'
import { chownSync, existsSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { type Absent, findPostgres, inherited, isAbsent } from './find.js'
import { lastingSecret, outsideDir, writePrivate } from './folder.js'
import { freePort } from './ports.js'
import { type ProcessMark, startProcess } from './process.js'

const run = promisify(execFile)
const SUPERUSER = 'postgres'

export interface Postgres {
  /** As superuser, to `database`. */
  readonly url: string
  readonly port: number
  readonly version: string
  readonly mark: ProcessMark
  /** In `dir`, or in a folder of its own where the server's user cannot walk there: removed when we end, or by whoever keeps it running. */
  readonly data: string
  /** The same server as somebody else, or another database of it. */
  urlFor(user: string, password: string, database?: string): string
  /** Fast: open transactions are rolled back. The data stay; start it again with the same folder and port. */
  stop(): Promise<void>
}

export interface PostgresOptions {
  readonly dir: string
  /** Made when it is not there. */
  readonly database?: string
  readonly port?: number
  readonly settings?: Readonly<Record<string, string>>
  /** The name in log lines and of the log file, where one runs two. */
  readonly name?: string
  readonly keep?: boolean
  readonly signal?: AbortSignal | undefined
}

export async function startPostgres(options: PostgresOptions): Promise<Postgres | Absent> {
  const found = findPostgres()
  if (isAbsent(found)) return found
  const user = await unprivileged()
  if (user && isAbsent(user)) return user
  const dir = resolve(options.dir)
  const database = options.database ?? SUPERUSER
  const data = dataFolder(dir, user, options.keep)
  const password = lastingSecret(dir, 'password')
  const as = { cwd: dirname(data), env: inherited(), ...user, ...(options.signal && { signal: options.signal }) }

  if (!existsSync(join(data, 'PG_VERSION'))) await initialise(found.folder, data, password, as)
  const port = options.port ?? (await freePort())
  const settings = {
    listen_addresses: '127.0.0.1',
    port: String(port),
    unix_socket_directories: '', // TCP with a password for everybody, as it is in production
    max_connections: '200',
    shared_buffers: '64MB',
    log_line_prefix: '%m [%p] %u@%d ',
    ...options.settings,
  }
  const child = await startProcess({
    name: options.name ?? 'postgres',
    command: join(found.folder, 'postgres'),
    args: ['-D', data, ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    dir,
    cwd: dirname(data),
    user,
    ready: async signal => {
      await run(join(found.folder, 'pg_isready'), ['-q', '-h', '127.0.0.1', '-p', String(port)], { signal })
      return true
    },
    stopWith: 'SIGINT', // "fast": SIGTERM would wait for the last client to leave
    keep: options.keep,
    signal: options.signal,
  })
  const urlFor = (login: string, secret: string, name = database) =>
    `postgres://${encodeURIComponent(login)}:${encodeURIComponent(secret)}@127.0.0.1:${port}/${name}`
  const url = urlFor(SUPERUSER, password)
  try {
    if (database !== SUPERUSER) await demandDatabase(urlFor(SUPERUSER, password, SUPERUSER), database)
  } catch (cause) {
    await child.stop()
    throw cause
  }
  return { url, port, version: readFileSync(join(data, 'PG_VERSION'), 'utf8').trim(), mark: child.mark, data, urlFor, stop: child.stop }
}

interface User {
  readonly uid: number
  readonly gid: number
}

/** PostgreSQL refuses to run as root; then it runs as the user of Debian's package, or as nobody. */
async function unprivileged(): Promise<User | Absent | undefined> {
  if (process.getuid?.() !== 0) return undefined
  for (const name of ['postgres', 'nobody']) {
    const ids = readFileSync('/etc/passwd', 'utf8')
      .split('\n')
      .find(line => line.startsWith(`${name}:`))
      ?.split(':')
    if (ids) return { uid: Number(ids[2]), gid: Number(ids[3]) }
  }
  return { absent: 'PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`' }
}

/** In `dir`, unless the other user cannot walk there (a checkout under root's home). A note in `dir` remembers where it went. */
function dataFolder(dir: string, user: User | undefined, keep = false): string {
  mkdirSync(dir, { recursive: true })
  const remembered = join(dir, 'data-folder')
  if (existsSync(remembered)) {
    const folder = readFileSync(remembered, 'utf8')
    if (existsSync(folder)) return folder
    rmSync(remembered)
  }
  if (user && !canWalk(dir)) {
    const outside = outsideDir(each => isServing(join(each, 'data')))
    if (!keep) process.on('exit', () => rmSync(outside, { recursive: true, force: true }))
    const folder = join(outside, 'data')
    makeFor(user, folder)
    writePrivate(remembered, folder)
    return folder
  }
  const folder = join(dir, 'data')
  makeFor(user, folder)
  return folder
}

/** Its first line is the number of the server; a crash leaves the file behind. */
function isServing(data: string): boolean {
  try {
    const [pid] = readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')
    return existsSync(`/proc/${pid}`)
  } catch {
    return false
  }
}

function makeFor(user: User | undefined, folder: string): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  if (user) chownSync(folder, user.uid, user.gid)
}

function canWalk(folder: string): boolean {
  for (let each = folder; ; each = dirname(each)) {
    if ((statSync(each).mode & 0o001) === 0) return false
    if (each === dirname(each)) return true
  }
}

async function initialise(programs: string, data: string, password: string, as: object): Promise<void> {
  // initdb reads it as the other user, and nobody else may, for this moment.
  const passwordFile = join(data, '..', `${process.pid}.pw`)
  writePrivate(passwordFile, password)
  if ('uid' in as) chownSync(passwordFile, (as as User).uid, (as as User).gid)
  try {
    const args = ['-D', data, '-U', SUPERUSER, '-A', 'scram-sha-256', `--pwfile=${passwordFile}`, '-E', 'UTF8', '--locale=C', '--no-sync', '--no-instructions']
    await run(join(programs, 'initdb'), args, as)
  } finally {
    rmSync(passwordFile, { force: true })
  }
}

async function demandDatabase(url: string, database: string): Promise<void> {
  if (!/^[a-z_][a-z0-9_]*$/.test(database)) throw new Error(`not a plain database name: ${database}`)
  const { default: pg } = await import('pg') // 30 ms that a start without it need not pay
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    const { rowCount } = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [database])
    if (rowCount === 0) await client.query(`CREATE DATABASE ${database}`)
  } finally {
    await client.end()
  }
}
