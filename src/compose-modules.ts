/** Owns the loading of engines that are not ours: a file of this machine that the configuration names, which nobody else can write to. */
import { realpath, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Log } from './broker/deps.js'
import type { Config } from './config-schema.js'
import { isDefined } from './contract/engine.js'
import { CurfewError } from './domain/errors.js'
import type { Clock, CredentialEngine } from './ports.js'

export type EngineEntry = Config['engines'][number]

export interface LoadedEngine {
  readonly engine: CredentialEngine
  close(): Promise<void>
}

/** @param at of the entry in the configuration. @throws {CurfewError} that names what is wrong with it. */
export async function loadEngine(entry: EngineEntry, at: number, deps: { readonly clock: Clock; readonly log: Log }): Promise<LoadedEngine> {
  const refuse = (field: string, message: string, cause?: unknown): never => {
    throw new CurfewError('malformed', `engines.${at}.${field}: ${message}`, { reason: 'engine_refused', field: `engines.${at}.${field}` }, { cause })
  }
  const path = await realpath(entry.module).catch(cause => refuse('module', 'there is no such file', cause))
  // Whoever can write it runs as we do, with every key that we hold.
  for (const place of [path, dirname(path)]) {
    const { mode, uid } = await stat(place)
    if ((mode & 0o022) !== 0) refuse('module', 'it, or its folder, can be written by others: chmod go-w')
    if (process.getuid && uid !== 0 && uid !== process.getuid()) refuse('module', 'it, or its folder, belongs to somebody else')
  }
  const { default: module } = await import(pathToFileURL(path).href).catch(cause => refuse('module', 'it cannot be loaded', cause))
  if (!isDefined(module)) return refuse('module', 'its default export is not made by defineEngine of this very package (curfew/engine)')
  if (module.kind !== entry.kind) refuse('kind', 'the module is an engine of another kind')

  const engine = await Promise.resolve()
    .then(() => module.create(entry.settings, { clock: deps.clock, secrets: entry.secrets, log: deps.log }))
    .catch(cause => refuse('settings', cause instanceof CurfewError ? cause.message : 'the engine did not start', cause))
  if (engine.kind !== entry.kind) refuse('kind', 'the engine calls itself otherwise')
  if (engine.revocation !== entry.revocation) refuse('revocation', 'the engine says another class of itself')
  if (engine.local || !engine.prepare) refuse('module', 'an engine outside this repository lives at a target, and prepares a handle before it makes anything')
  return { engine, close: async () => engine.close?.() }
}
