// Owns the building of the real parts (Vault, SPIRE) from their Go tool modules into the cache; runs before `npm install`, so plain Node only.
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  accessSync,
  constants,
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const VAULT_MODULE = 'github.com/hashicorp/vault'
const POSTGRES_PLUGIN = 'postgresql-database-plugin'

/** Vault 1.21.4 was released against an sdk between two published ones: these calls do not compile against either neighbour. */
const VAULT_ADAPTIONS = [
  {
    file: 'vault/identity_store.go',
    from: 'ActivationFunc: iStore.activateDeduplication,',
    to: 'ActivationFunc: func(ctx context.Context, req *logical.Request, _ string) error { return iStore.activateDeduplication(ctx, req) },',
  },
  {
    file: 'vault/logical_system_activation_flags.go',
    from: 'b.idStoreBackend.ActivationFunc(ctx, nil);',
    to: 'b.idStoreBackend.ActivationFunc(ctx, nil, "");',
  },
  {
    file: 'builtin/logical/transit/path_restore.go',
    from: 'restoredKeyName, err := b.lm.RestorePolicy(ctx, req.Storage, keyName, backupB64, force)',
    to: 'restoredKeyName, err := keyName, b.lm.RestorePolicy(ctx, req.Storage, keyName, backupB64, force)',
  },
]

const PARTS = {
  vault: {
    version: '1.21.4',
    binaries: ['vault', `plugins/${POSTGRES_PLUGIN}`],
    packages: [VAULT_MODULE, `${VAULT_MODULE}/plugins/database/postgresql/${POSTGRES_PLUGIN}`],
    flags: ['-tags', 'minimal'], // without the cloud plug-ins: a third of the size, half the memory
    cgo: false,
    about: 'about 6 minutes on two cores, after about 4 of download',
    prepare: adaptVault,
    finish(out) {
      mkdirSync(join(out, 'plugins'))
      renameSync(join(out, POSTGRES_PLUGIN), join(out, 'plugins', POSTGRES_PLUGIN))
    },
  },
  spire: {
    version: '1.13.3',
    binaries: ['spire-server', 'spire-agent', 'oidc-discovery-provider'],
    packages: ['cmd/spire-server', 'cmd/spire-agent', 'support/oidc-discovery-provider'].map(path => `github.com/spiffe/spire/${path}`),
    flags: [],
    cgo: true, // the server's sqlite
    about: 'about 8 minutes on two cores',
    prepare: async () => [],
    finish() {},
  },
}

export class BuildError extends Error {}

export const cacheDir = () => process.env.CURFEW_CACHE || join(homedir(), '.cache', 'curfew')

/** Where a part lives once built: keyed by version and by what it is built from. */
export function partDir(name) {
  const sum = createHash('sha256')
    .update(readFileSync(join(here, name, 'go.sum')))
    .digest('hex')
    .slice(0, 12)
  return join(cacheDir(), `${name}-${PARTS[name].version}-${sum}`)
}

export const missing = () => Object.keys(PARTS).filter(name => !isBuilt(name))

/** Builds what is missing, one part after the other (each one alone fills the cores); returns the names of the built ones. */
export async function buildMissing(names = Object.keys(PARTS)) {
  const wanted = names.filter(name => !isBuilt(name))
  if (wanted.length > 0) demandTools(wanted)
  for (const name of wanted) await buildOne(name)
  return wanted
}

function isBuilt(name) {
  return PARTS[name].binaries.every(binary => {
    try {
      accessSync(join(partDir(name), binary), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

function demandTools(names) {
  const go = spawnSync('go', ['env', 'GOVERSION'], { encoding: 'utf8', env: { ...process.env, GOTOOLCHAIN: 'local' } })
  const least = /^go (\d+)\.(\d+)/m.exec(readFileSync(join(here, names[0], 'go.mod'), 'utf8'))
  const need = `Go ${least[1]}.${least[2]} or newer`
  if (go.error) throw new BuildError(`the Go compiler is missing: install ${need}, put \`go\` on the PATH, then run \`npm run real\` again`)
  const have = /go(\d+)\.(\d+)/.exec(go.stdout) ?? [go.stdout, '0', '0']
  if (have[1] * 1000 + +have[2] < least[1] * 1000 + +least[2])
    throw new BuildError(`${have[0]} is too old to build the real parts: install ${need}, then run \`npm run real\` again`)
  const compiler = process.env.CC || 'gcc'
  if (names.some(name => PARTS[name].cgo) && spawnSync(compiler, ['--version']).error)
    throw new BuildError(
      `the C compiler \`${compiler}\` is missing (SPIRE's server holds its entries in sqlite): install gcc (Debian: apt-get install gcc libc6-dev), then run \`npm run real\` again`,
    )
}

async function buildOne(name) {
  const part = PARTS[name]
  const target = partDir(name)
  mkdirSync(cacheDir(), { recursive: true })
  const say = reporter(name)
  const unlock = await lock(`${target}.lock`, say)
  try {
    if (isBuilt(name)) return say('built meanwhile by another process')
    sweepLeftovers(name)
    const work = mkdtempSync(join(cacheDir(), `.build-${name}-${process.pid}-`))
    const undo = onExit(() => rmSync(work, { recursive: true, force: true }))
    try {
      say(`${part.version}: ${part.about}, into ${target}`)
      const out = join(work, 'out')
      mkdirSync(out)
      const extra = await part.prepare(work, say)
      const args = ['build', '-v', '-trimpath', '-buildvcs=false', '-ldflags=-s -w', ...part.flags, ...extra, '-o', `${out}/`, ...part.packages]
      await go(name, args, say, { CGO_ENABLED: part.cgo ? '1' : '0' })
      part.finish(out)
      rmSync(target, { recursive: true, force: true }) // only ever a damaged one: a whole one was seen above
      renameSync(out, target)
      say('done')
    } finally {
      undo()
    }
  } finally {
    unlock()
  }
}

/** Vault's source, copied without what the build does not read, adapted, and put in the module's place by a temporary go.mod. */
async function adaptVault(work, say) {
  const listed = await go('vault', ['mod', 'download', '-json', VAULT_MODULE], say)
  const source = JSON.parse(listed).Dir
  const copy = join(work, 'source')
  const unread = new Set(['ui', 'enos', 'website', 'changelog'].map(folder => join(source, folder)))
  cpSync(source, copy, { recursive: true, filter: path => !unread.has(path) })
  spawnSync('chmod', ['-R', 'u+w', copy]) // the module cache is read-only, and so is a copy of it
  for (const { file, from, to } of VAULT_ADAPTIONS) {
    const path = join(copy, file)
    const text = readFileSync(path, 'utf8')
    if (text.split(from).length !== 2)
      throw new BuildError(
        `${file} of Vault ${PARTS.vault.version} does not hold exactly once: ${from}\nThe adaption in test/real/build.mjs no longer fits this version; correct it there`,
      )
    writeFileSync(
      path,
      text.replace(from, () => to),
    )
  }
  const modfile = join(work, 'go.mod')
  writeFileSync(modfile, `${readFileSync(join(here, 'vault', 'go.mod'), 'utf8')}\nreplace ${VAULT_MODULE} => ${copy}\n`)
  cpSync(join(here, 'vault', 'go.sum'), join(work, 'go.sum'))
  return [`-modfile=${modfile}`]
}

function go(name, args, say, env = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn('go', args, {
      cwd: join(here, name),
      env: { ...process.env, GOTOOLCHAIN: 'local', GOWORK: 'off', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const undo = onExit(() => child.kill('SIGINT'))
    const seen = { downloaded: 0, compiled: 0, other: [] }
    let stdout = ''
    let rest = ''
    child.stdout.setEncoding('utf8').on('data', text => {
      stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', text => {
      const lines = (rest + text).split('\n')
      rest = lines.pop()
      for (const line of lines) {
        if (line.startsWith('go: downloading ')) seen.downloaded += 1
        else if (/^[\w./~-]+$/.test(line)) seen.compiled += 1
        else seen.other.push(line)
      }
    })
    const progress = setInterval(() => say(`${seen.downloaded ? `${seen.downloaded} modules downloaded, ` : ''}${seen.compiled} packages compiled`), 15_000)
    const end = () => {
      clearInterval(progress)
      undo.forget()
    }
    child.on('error', error => {
      end()
      reject(error)
    })
    child.on('close', (code, signal) => {
      end()
      if (code === 0) return resolve(stdout)
      reject(
        new BuildError(`go ${args[0]} for ${name} ended with ${signal ?? code}:\n${[...seen.other.slice(-40), rest, stdout.slice(-2000)].join('\n').trim()}`),
      )
    })
  })
}

/** One builder at a time: the second would only take the first one's cores. Safety does not rest on it, the rename does that. */
async function lock(path, say) {
  const mine = `${path}.${process.pid}`
  writeFileSync(mine, `${process.pid}`)
  for (let waited = 0; ; waited += 1) {
    try {
      linkSync(mine, path) // appears whole, with its owner in it
      rmSync(mine)
      return onExit(() => rmSync(path, { force: true }))
    } catch (error) {
      if (error.code !== 'EEXIST') throw error
    }
    const owner = existsSync(path) ? Number(readFileSync(path, 'utf8')) : undefined
    if (owner !== undefined && !isAlive(owner)) rmSync(path, { force: true })
    else {
      if (waited % 15 === 0) say(`waiting for process ${owner}, which is building it`)
      await new Promise(resolve => setTimeout(resolve, 1000))
    }
  }
}

function sweepLeftovers(name) {
  for (const entry of readdirSync(cacheDir())) {
    const match = new RegExp(`^\\.build-${name}-(\\d+)-`).exec(entry)
    if (match && !isAlive(Number(match[1]))) rmSync(join(cacheDir(), entry), { recursive: true, force: true })
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code === 'EPERM'
  }
}

const undone = new Set()

/** Runs at the latest when this process ends; calling the answer runs it now, `forget` drops it. */
function onExit(act) {
  const once = Object.assign(
    () => {
      if (undone.delete(once)) act()
    },
    { forget: () => undone.delete(once) },
  )
  undone.add(once)
  return once
}

function reporter(name) {
  const start = Date.now()
  return text => process.stderr.write(`${name.padEnd(8)} ${String(Math.round((Date.now() - start) / 1000)).padStart(4)} s  ${text}\n`)
}

/** For the entry script: an interrupted build leaves nothing behind and says what failed in one line. */
export async function main() {
  process.on('exit', () => {
    for (const act of [...undone].reverse()) act()
  })
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ])
    process.on(signal, () => process.exit(code))
  try {
    await buildMissing()
    return 0
  } catch (error) {
    if (!(error instanceof BuildError)) throw error
    process.stderr.write(`real     ${error.message}\n`)
    return 1
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href && basename(process.argv[1]) === 'build.mjs') process.exitCode = await main()
