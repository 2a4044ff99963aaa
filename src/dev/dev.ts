/** Owns `npm run dev`: the same world, kept until it is told to stop, and three lines to try in a second terminal. */
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { configDir, repository } from './find.js'
import { writePrivate } from './folder.js'
import { buildWorld } from './world.js'

export async function dev(signal: AbortSignal): Promise<number> {
  const line = (text: string) => void process.stdout.write(`${text}\n`)
  const world = await buildWorld((name, text) => line(`${name.padEnd(8)} ${text}`), signal)
  const login = join(configDir(), 'dev.json')
  mkdirSync(configDir(), { recursive: true, mode: 0o700 })
  writePrivate(login, JSON.stringify({ url: world.server, operatorToken: world.operatorToken }))
  const job = join(repository(), 'dist', 'src', 'dev', 'job.js')
  const evidence = `ACTIONS_ID_TOKEN_REQUEST_URL='${world.issuer.url}/token?' ACTIONS_ID_TOKEN_REQUEST_TOKEN=dev`
  line(`
dev mode is insecure: loopback, http, one process, keys that nobody keeps. A real deployment begins with config/curfew.example.yaml.
In a second terminal, already logged in:

1  ${evidence} ./bin/curfew run demo/orders-bearer --on-revoke=warn -- node ${job} ${world.api.bearerUrl}
2  ./bin/curfew revoke --capability demo/orders-bearer --now --reason try
3  ./bin/curfew list

Ctrl-C ends it all.`)
  await new Promise<void>(resolve => signal.addEventListener('abort', () => resolve(), { once: true }))
  rmSync(login, { force: true })
  await world.close()
  line('Everything started here is stopped.')
  return 0
}
