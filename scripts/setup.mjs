#!/usr/bin/env node
// Owns the first step of every command: packages installed and sources compiled, each only when it is needed. Node alone, no dependency.
import { spawn } from 'node:child_process'
import { existsSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
/** Written by npm at the end of every install: its time tells whether one was completed after the lock file last changed. */
const INSTALLED = join(ROOT, 'node_modules', '.package-lock.json')
const LOCK = join(ROOT, 'package-lock.json')
/** Written here after a successful compilation, with the time at which it began. tsc's own note will not do: `tsc --noEmit` and failures write it too. */
const BUILT = join(ROOT, 'dist', '.compiled')
const SOURCES = ['src', 'workers', 'test', 'bench', 'examples']
const OLDEST_NODE = [20, 20]

const quiet = process.argv.includes('--quiet')
const started = performance.now()
const seconds = since => `${((performance.now() - since) / 1000).toFixed(1)} s`
const say = text => {
  if (!quiet) process.stdout.write(`${text}\n`)
}
/** What takes long is told even when quiet: silence for half a minute looks like a hang. It goes to standard error, away from data. */
const tell = text => process.stderr.write(`${text}\n`)

class Failure extends Error {}

function mtime(path) {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0
}

function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  if (major < OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor < OLDEST_NODE[1])) {
    throw new Failure(`Node ${process.versions.node} is too old: Curfew needs ${OLDEST_NODE.join('.')} or later.`)
  }
}

/** Runs a program and answers its exit code with the last lines of what it said; a sign of life every 10 s. */
function run(command, args, { label }) {
  const since = performance.now()
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: ROOT,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NO_COLOR: '1', npm_config_update_notifier: 'false' },
    })
    let tail = ''
    const keep = chunk => {
      tail = (tail + chunk).slice(-4_000)
    }
    child.stdout.on('data', keep)
    child.stderr.on('data', keep)
    const alive = setInterval(() => tell(`${label} still working, ${seconds(since)}`), 10_000)
    const stop = signal => child.kill(signal)
    process.once('SIGINT', stop)
    process.once('SIGTERM', stop)
    const done = () => {
      clearInterval(alive)
      process.off('SIGINT', stop)
      process.off('SIGTERM', stop)
    }
    child.on('error', cause => {
      done()
      reject(new Failure(`${command} cannot be started (${cause.code ?? 'unknown'}). npm comes with Node; is it on the PATH?`))
    })
    child.on('close', (code, signal) => {
      done()
      if (signal) reject(new Failure(`${label} was stopped by ${signal}; the next run begins again.`))
      else resolve({ code, tail })
    })
  })
}

/** npm's own complaint in one line, without addresses or paths of this machine. */
function npmReason(tail) {
  if (/ENOTFOUND|ECONNREFUSED|EAI_AGAIN|ETIMEDOUT|ECONNRESET|ENETUNREACH|network|ENOTCACHED/i.test(tail)) {
    return 'the package registry that npm is configured for cannot be reached. Go online once, or point npm at a mirror or a filled cache'
  }
  if (/EACCES|EPERM|EROFS/.test(tail)) return 'a file or folder cannot be written by this user. Check who owns node_modules and npm’s cache'
  if (/ENOSPC/.test(tail)) return 'the disk is full'
  if (/EINTEGRITY/.test(tail)) return 'a package is not the one that the lock file names; nothing was installed'
  if (/E404|ETARGET/.test(tail)) return 'a package of the lock file is not to be had from the registry that npm is configured for'
  if (/EUSAGE|can only install|not in sync|lock file/i.test(tail)) return 'package.json and package-lock.json do not belong together'
  const code = /npm (?:error|ERR!) code (\w+)/.exec(tail)?.[1]
  return code ? `npm says ${code}` : 'npm failed without a known reason'
}

async function install() {
  if (existsSync(join(ROOT, 'node_modules')) && mtime(INSTALLED) >= mtime(LOCK)) return
  const since = performance.now()
  tell(
    existsSync(INSTALLED) ? 'setup    the lock file is newer than node_modules: installing' : 'setup    installing packages (scripts of packages are not run)',
  )
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
  const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline', '--loglevel=error']
  const { code, tail } = await run(npm, args, { label: 'setup    npm ci:' })
  if (code !== 0) {
    throw new Failure(`npm ci did not succeed: ${npmReason(tail)}.\nThe whole story: npm ci --ignore-scripts`)
  }
  // The marker carries the time of npm's archive on some versions; "installed now" is what the next run must read.
  const now = new Date()
  if (existsSync(INSTALLED)) utimesSync(INSTALLED, now, now)
  // What was compiled against other packages is compiled again.
  rmSync(BUILT, { force: true })
  say(`setup    ${packages()} packages, ${seconds(since)}`)
}

function packages() {
  const modules = join(ROOT, 'node_modules')
  let count = 0
  for (const name of readdirSync(modules)) {
    if (name.startsWith('.')) continue
    count += name.startsWith('@') ? readdirSync(join(modules, name)).length : 1
  }
  return count
}

/** The first source that is newer than the last compilation, or null. A folder's own time tells of files that went away. */
function newerSource() {
  const built = mtime(BUILT)
  if (built === 0) return 'nothing was compiled yet'
  for (const file of ['tsconfig.json', 'package.json']) if (mtime(join(ROOT, file)) > built) return file
  const look = folder => {
    if (mtime(folder) > built) return folder
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name)
      if (entry.isDirectory()) {
        const found = look(path)
        if (found) return found
      } else if (/\.(?:ts|mts|cts|json)$/.test(entry.name) && mtime(path) > built) return path
    }
    return null
  }
  for (const name of SOURCES) {
    const folder = join(ROOT, name)
    const found = existsSync(folder) ? look(folder) : null
    if (found) return relative(ROOT, found)
  }
  return null
}

async function compile() {
  const why = newerSource()
  if (why === null) return
  const since = performance.now()
  const began = new Date()
  const tsc = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc')
  if (!existsSync(tsc)) throw new Failure('the compiler is not installed: node_modules was made without development packages. Remove it and run npm run setup.')
  const { code, tail } = await run(process.execPath, [tsc, '-p', 'tsconfig.json'], { label: 'setup    tsc:' })
  if (code !== 0) throw new Failure(`the sources do not compile:\n${tail.trim()}`)
  writeFileSync(BUILT, '')
  utimesSync(BUILT, began, began)
  say(`setup    compiled (${why}), ${seconds(since)}`)
}

try {
  checkNode()
  await install()
  await compile()
  say(`setup    ready, ${seconds(started)}`)
} catch (fault) {
  if (!(fault instanceof Failure)) throw fault
  tell(`setup    ${fault.message}`)
  process.exitCode = 1
}
