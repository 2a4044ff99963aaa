/** Owns starting a real Vault in dev mode, with the PostgreSQL plug-in where it was built beside it. */
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { request } from 'undici'
import { type Absent, environment, findBuilt, findProgram } from './find.js'
import { freePort, start } from './process.js'

export interface DevVault {
  readonly address: string
  readonly rootToken: string
  readonly from: string
  readonly pid: number
  stop(): Promise<void>
}

export async function startVault(options: { dir: string; detached?: boolean }): Promise<DevVault | Absent> {
  const program = findProgram('vault', 'bao') ?? findBuilt('vault', 'vault')
  if (!program) return { absent: 'no vault or bao on the PATH (npm run real builds one)' }
  mkdirSync(options.dir, { recursive: true, mode: 0o700 })
  const port = await freePort()
  const address = `http://127.0.0.1:${port}`
  const rootToken = `root-${randomBytes(12).toString('hex')}`
  const plugins = join(dirname(program), 'plugins')
  const env = environment()
  for (const name of Object.keys(env)) if (/^(VAULT|BAO)_/.test(name)) delete env[name]
  const started = await start({
    command: program,
    args: [
      'server',
      '-dev',
      `-dev-root-token-id=${rootToken}`,
      `-dev-listen-address=127.0.0.1:${port}`,
      '-dev-no-store-token',
      ...(existsSync(plugins) ? [`-dev-plugin-dir=${plugins}`] : []),
    ],
    log: join(options.dir, 'vault.log'),
    env: { ...env, HOME: options.dir },
    ready: async () => {
      const { statusCode, body } = await request(`${address}/v1/sys/health`)
      await body.dump()
      return statusCode === 200
    },
    ...(options.detached ? { detached: true } : {}),
  })
  return { address, rootToken, from: program, pid: started.pid, stop: started.stop }
}
