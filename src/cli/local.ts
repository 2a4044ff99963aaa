/** Owns what administrators' commands work on: the configuration file and the store itself, without a broker in between. */
import { existsSync, readFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import type { Command } from 'commander'
import type { LoadedConfig } from '../config.js'
import type { Config } from '../config-schema.js'
import type { Actor } from '../domain/revocation.js'
import type { Context, Store } from '../ports.js'
import type { DataKeyWrapper } from '../signers/envelope.js'
import type { Connections } from '../store/open.js'
import { CliError, EXIT, usage } from './exit.js'
import { type Io, type Printer, plain } from './output.js'

export interface LocalFlags {
  readonly config?: string
}

export function withConfig(command: Command): Command {
  return command.option('--config <file>', 'the configuration (CURFEW_CONFIG, curfew.yaml)')
}

/** @throws CurfewError(malformed) naming every fault. */
export async function loadConfig(flags: LocalFlags, io: Io): Promise<LoadedConfig> {
  const { load } = await import('../config.js')
  return load({ ...(flags.config === undefined ? {} : { path: flags.config }), env: io.env, readFile: path => readFileSync(path, 'utf8') })
}

export interface LocalStore {
  readonly store: Store
  readonly wrapper: DataKeyWrapper
  readonly sealDigest: (digest: string) => string
  close(): Promise<void>
}

export async function openLocal(config: Config, print: Printer): Promise<LocalStore> {
  if (config.store.kind === 'memory')
    throw new CliError(EXIT.usage, {
      code: 'usage',
      detail: 'this configuration keeps its store in the memory of the serving process: there is nothing to open',
    })
  const log = quietLog(print)
  const [{ openStore }, { sealDigest }] = await Promise.all([import('../store/open.js'), import('../signers/sealed.js')])
  const { wrapperOf } = await import('../signers/configured.js')
  const { wrapper, close } = await wrapperOf(config, log)
  try {
    const seal = await sealDigest(wrapper)
    const store = await openStore(config.store, { migrationsDir: await migrationsDir(), sealDigest: seal, log })
    return { store, wrapper, sealDigest: seal, close: async () => void (await Promise.all([store.close(), close()])) }
  } catch (error) {
    await close()
    throw error
  }
}

/** Connects without looking at the schema: it may be what has to be mended. */
export async function connectLocal(config: Config, print: Printer): Promise<Connections> {
  if (config.store.kind === 'memory') throw new CliError(EXIT.usage, { code: 'usage', detail: 'a store in memory has nothing to migrate' })
  const { connect } = await import('../store/open.js')
  return connect(config.store, quietLog(print))
}

/** What libraries have to say is for people: their own words stay in the log of the processes, only the event is told here. */
export function quietLog(print: Printer) {
  const tell = (_fields: object, message: string) => print.say(`  ${message}`)
  return { debug: () => {}, info: () => {}, warn: tell, error: tell }
}

/** Whoever may read the configuration acts as the person logged in here. */
export function localContext(): Context & { readonly actor: Actor } {
  let name = 'unknown'
  try {
    name = userInfo().username
  } catch {
    // A container's user may have no name.
  }
  return { requestId: null, actor: { kind: 'operator', id: `local:${name}` } }
}

/**
 * Why, of an act on the store itself that no route looks at: demanded with the flag that ends something, and with nothing else.
 * @param otherwise what to say of a reason without that flag @throws {CliError} usage
 */
export function reasonFor(isEnding: boolean | undefined, reason: string | undefined, otherwise: string): string | null {
  if (isEnding && reason === undefined) throw usage('say why: --reason T', 'an incident number, a sentence')
  if (!isEnding && reason !== undefined) throw usage(otherwise)
  if (reason === undefined) return null
  if (reason.length === 0 || reason.length > 500 || plain(reason) !== reason)
    throw usage('--reason is one line of 1 to 500 characters, without control characters')
  return reason
}

export async function migrationsDir(): Promise<string> {
  const { MIGRATIONS } = await import('../store/migrate.js')
  if (!existsSync(MIGRATIONS)) throw new CliError(EXIT.unexpected, { code: 'not_installed', detail: 'the folder of migrations is missing beside the program' })
  return MIGRATIONS
}
