/** Owns the rights of a task kept here: its holder may look at its own without being an operator. */
import type { Auth, Broker } from './http.js'
import type { Io } from './output.js'

export async function keptAuth(task: string | undefined, io: Io, broker: Broker): Promise<Auth | null> {
  if (task === undefined) return null
  const [{ stateIn }, { proofKeyFrom }] = await Promise.all([import('./state.js'), import('./proof.js')])
  const kept = stateIn(io.env).get(task)
  return kept && kept.server === broker.url ? { kind: 'holder', token: kept.token, key: proofKeyFrom(kept.key) } : null
}
