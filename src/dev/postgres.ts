/** Owns starting a PostgreSQL cluster of our own: loopback, a free port, a password, its own directory. */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmodSync, chownSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import { type Absent, findProgram } from './find.js'
import { freePort, start } from './process.js'

const run = promisify(execFile)

export interface Postgres {
  readonly host: string
  readonly port: number
  readonly adminUser: string
  readonly adminPassword: string
  readonly pid: number
  readonly version: string
  url(database: string): string
  stop(): Promise<void>
  /** Starts the same cluster again on the same port, after `stop`. */
  again(): Promise<Postgres>
}

/** @param dir an absent or empty directory; every part of its path must be open to the server's user. */
export async function startPostgres(options: { dir: string; detached?: boolean }): Promise<Postgres | Absent> {
  const initdb = findProgram('initdb')
  const server = findProgram('postgres')
  if (!initdb || !server) return { absent: 'no PostgreSQL server is installed (initdb and postgres)' }
  const as = serverUser()
  if (as === null) return { absent: 'PostgreSQL does not run as root, and there is no user postgres to run it as' }
  mkdirSync(options.dir, { recursive: true, mode: 0o700 })
  const data = join(options.dir, 'data')
  const password = randomBytes(18).toString('base64url')
  const file = join(options.dir, 'password')
  writeFileSync(file, password, { mode: 0o600 })
  if (as.ids) {
    chownSync(options.dir, as.ids.uid, as.ids.gid)
    chownSync(file, as.ids.uid, as.ids.gid)
    chmodSync(options.dir, 0o700)
  }
  await run(as.command, [...as.before, initdb, '-D', data, '-U', 'curfew_admin', '--pwfile', file, '-A', 'scram-sha-256', '--no-sync', '-E', 'UTF8', '--locale', 'C'], { cwd: tmpdir() })
  return launch({ ...options, data, server, as, password, port: await freePort() })
}

interface Launch {
  readonly dir: string
  readonly data: string
  readonly server: string
  readonly as: ServerUser
  readonly password: string
  readonly port: number
  readonly detached?: boolean
}

async function launch(l: Launch): Promise<Postgres> {
  const url = (database: string) => `postgresql://curfew_admin:${l.password}@127.0.0.1:${l.port}/${database}`
  const log = join(l.dir, 'postgres.log')
  const settings = ['-c', 'listen_addresses=127.0.0.1', '-c', 'unix_socket_directories=', '-c', 'max_connections=200', '-c', 'fsync=on']
  const started = await start({
    command: l.as.command,
    args: [...l.as.before, l.server, '-D', l.data, '-p', String(l.port), ...settings],
    log,
    cwd: tmpdir(),
    ready: () => answers(url('postgres')),
    ...(l.detached ? { detached: true } : {}),
  })
  return {
    host: '127.0.0.1',
    port: l.port,
    adminUser: 'curfew_admin',
    adminPassword: l.password,
    // setpriv and the server itself are one process: exec keeps the pid.
    pid: started.pid,
    version: readFileSync(join(l.data, 'PG_VERSION'), 'utf8').trim(),
    url,
    // SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for every client to leave.
    async stop() {
      try {
        process.kill(started.pid, 'SIGINT')
      } catch {
        return
      }
      await started.stop()
    },
    again: () => launch(l),
  }
}

interface ServerUser {
  readonly command: string
  readonly before: readonly string[]
  readonly ids: { readonly uid: number; readonly gid: number } | null
}

/** PostgreSQL refuses root: as root it runs as the package's own user. */
function serverUser(): ServerUser | null {
  if (userInfo().uid !== 0) return { command: '/usr/bin/env', before: [], ids: null }
  const setpriv = findProgram('setpriv')
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find(l => l.startsWith('postgres:'))
  const [, , uid, gid] = line?.split(':') ?? []
  if (!setpriv || !uid || !gid) return null
  return { command: setpriv, before: ['--reuid', uid, '--regid', gid, '--clear-groups'], ids: { uid: Number(uid), gid: Number(gid) } }
}

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 1_000 })
  try {
    await client.connect()
    await client.query('select 1')
    return true
  } finally {
    await client.end().catch(() => {})
  }
}
