/** Owns a PostgreSQL server of the test's own: made, started and stopped in a directory that goes with it. */
import { execFile, execFileSync } from 'node:child_process'
import { chownSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

export interface Cluster {
  readonly url: string
  /** `kill -9` of the whole server, as a power switch for its processes. */
  crash(): Promise<void>
  start(): Promise<void>
  log(): string
  stop(): Promise<void>
}

/** Why there is none, or null: said by the tests that are then skipped. */
export function whyNoPostgres(): string | null {
  try {
    execFileSync('initdb', ['--version'], { stdio: 'ignore' })
    execFileSync('pg_ctl', ['--version'], { stdio: 'ignore' })
    if (process.getuid?.() === 0) execFileSync('setpriv', ['--version'], { stdio: 'ignore' })
    return null
  } catch {
    return 'initdb and pg_ctl (and setpriv, for root) are not on the PATH'
  }
}

/** PostgreSQL refuses to run as root; then its own user runs it. */
function asServer(command: string, args: readonly string[]) {
  if (process.getuid?.() !== 0) return run(command, args)
  return run('setpriv', ['--reuid=postgres', '--regid=postgres', '--clear-groups', command, ...args])
}

/** @param files laid into the data directory; a `server.crt` turns TLS on. */
export async function startCluster(settings: Record<string, string> = {}, files: Record<string, Buffer> = {}): Promise<Cluster> {
  const dir = mkdtempSync(join(tmpdir(), 'curfew-pg-'))
  const id = (flag: string) => Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8' }))
  const owner = process.getuid?.() === 0 ? { uid: id('-u'), gid: id('-g') } : null
  if (owner) chownSync(dir, owner.uid, owner.gid)
  const data = join(dir, 'data')
  await asServer('initdb', ['-D', data, '-U', 'curfew', '-A', 'trust', '--encoding=UTF8', '--locale=C.UTF-8', '--no-sync'])
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(data, name), content, { mode: 0o600 })
    if (owner) chownSync(join(data, name), owner.uid, owner.gid)
  }
  const set = {
    listen_addresses: '',
    unix_socket_directories: dir,
    max_connections: '60',
    shared_buffers: '64MB',
    ...('server.crt' in files ? { ssl: 'on' } : {}),
    ...settings,
  }
  const options = Object.entries(set).map(([name, value]) => `-c ${name}='${value}'`)
  const cluster: Cluster = {
    url: `postgresql://curfew@localhost/postgres?host=${encodeURIComponent(dir)}`,
    async start() {
      const attempt = () => asServer('pg_ctl', ['-D', data, '-w', '-t', '60', '-l', join(dir, 'log'), '-o', options.join(' '), 'start'])
      // A backend that outlived its parent ends by itself when it sees that; until then the shared memory is not free.
      for (let left = 10; ; left--) {
        try {
          await attempt()
          return
        } catch (error) {
          if (left === 0) throw new Error(`the server did not start:\n${cluster.log().slice(-2_000)}`, { cause: error })
          await new Promise(resolve => setTimeout(resolve, 500))
        }
      }
    },
    async crash() {
      const [pid] = readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')
      const children = execFileSync('ps', ['-o', 'pid=', '--ppid', String(pid)], { encoding: 'utf8' })
        .trim()
        .split(/\s+/)
      for (const victim of [pid, ...children]) {
        try {
          process.kill(Number(victim), 'SIGKILL')
        } catch {
          // It was gone already.
        }
      }
    },
    log: () => readFileSync(join(dir, 'log'), 'utf8'),
    async stop() {
      await asServer('pg_ctl', ['-D', data, '-m', 'immediate', '-w', 'stop']).catch(() => {})
      rmSync(dir, { recursive: true, force: true })
    },
  }
  await cluster.start()
  return cluster
}
