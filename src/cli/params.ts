/** Owns what the command line adds when it asks for a credential: what the user names, and a key of its own where SSH certifies one. */
import { readFileSync } from 'node:fs'
import { usage } from './exit.js'
import type { Held } from './holder.js'
import type { Broker } from './http.js'
import { newSshKey } from './ssh-key.js'

export interface Additions {
  /** Sent with the request. */
  readonly params: Readonly<Record<string, string>>
  /** Given to the child beside the secret, and sent to nobody: the private half of a key. */
  readonly kept: Readonly<Record<string, string>>
}

const NOTHING: Additions = { params: {}, kept: {} }
/** As the broker bounds a parameter. Characters. */
const VALUE_MAX = 8_192

/** `name=value`, or `name=@file` for what stands in a file. */
export function param(value: string, previous: Record<string, string> = {}): Record<string, string> {
  const [, name, given] = /^([a-z][a-z0-9_-]{0,62})=([\s\S]+)$/.exec(value) ?? []
  if (name === undefined || given === undefined) throw usage('a parameter is name=value, or name=@file')
  return { ...previous, [name]: given.startsWith('@') ? contentOf(given.slice(1)) : given }
}

function contentOf(path: string): string {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch {
    throw usage(`there is no readable file ${path}`)
  }
  if (text.length > VALUE_MAX) throw usage(`${path} is longer than a parameter may be`)
  return text
}

/** By capability. Each is given those of the named parameters that it takes; one that none takes is a mistake. */
export async function additionsFor(
  broker: Broker,
  held: Held,
  capabilities: readonly string[],
  given: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, Additions>> {
  const { body } = await broker.call({ method: 'GET', path: '/v1/capabilities', auth: { kind: 'holder', key: held.key, token: held.token } }, signal)
  const takes = new Map(listed(body.capabilities).map(c => [c.name, c.params ?? {}]))
  for (const name of Object.keys(given)) if (!capabilities.some(c => takes.get(c)?.[name] !== undefined)) throw usage(`none of them takes a parameter ${name}`)
  return new Map(await Promise.all(capabilities.map(async c => [c, await additions(takes.get(c) ?? {}, given)] as const)))
}

async function additions(takes: Readonly<Record<string, string>>, given: Readonly<Record<string, string>>): Promise<Additions> {
  const params = Object.fromEntries(Object.entries(given).filter(([name]) => takes[name] !== undefined))
  if (takes.public_key !== 'required' || params.public_key !== undefined) return Object.keys(params).length > 0 ? { params, kept: {} } : NOTHING
  const { publicKey, privateKey } = await newSshKey()
  return { params: { ...params, public_key: publicKey }, kept: { ssh_key: privateKey } }
}

const listed = (value: unknown) => (Array.isArray(value) ? (value as { readonly name: string; readonly params?: Readonly<Record<string, string>> }[]) : [])
