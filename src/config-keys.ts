/** Owns the names of settings: which there are, what each is called in the environment, and what a misspelt one probably meant. */
import type { z } from 'zod'
import { SECRET_REF } from './config-schema.js'
import { edits } from './domain/spelling.js'

export interface Setting {
  /** Dotted, as in the file: `server.maxConnections`. */
  readonly path: string
  /** `CURFEW_SERVER_MAX_CONNECTIONS`. */
  readonly env: string
  /** How a text from the environment or the command line becomes a value. A secret's text is never a value: it stays where it is and is named. */
  readonly type: 'text' | 'number' | 'boolean' | 'secret'
}

/** The little of a zod schema that is walked here. */
interface Node {
  readonly def: {
    readonly type: string
    readonly shape?: Record<string, Node>
    readonly options?: readonly Node[]
    readonly innerType?: Node
    readonly in?: Node
    readonly element?: Node
    readonly valueType?: Node
    readonly values?: readonly unknown[]
  }
}

const asNode = (schema: z.ZodType) => schema as unknown as Node

/** Takes off what does not change the shape: defaults, optional, transforms. */
function bare(node: Node): Node {
  let inner = node
  for (;;) {
    const next = inner.def.innerType ?? (inner.def.type === 'pipe' ? inner.def.in : undefined)
    if (!next) return inner
    inner = next
  }
}

const isSecret = (node: Node) => node === asNode(SECRET_REF)

/** The objects a node can be: itself, or each branch of a union. */
function branches(node: Node): readonly Node[] {
  const inner = bare(node)
  if (inner.def.type === 'union' && !isSecret(inner)) return (inner.def.options ?? []).flatMap(branches)
  return [inner]
}

/** Every scalar setting of the object sections, in the order of the schema. Lists and maps have no name of their own in the environment. */
export function settingsOf(schema: z.ZodType): readonly Setting[] {
  const found = new Map<string, Setting>()
  const walk = (node: Node, path: readonly string[]): void => {
    for (const branch of branches(node)) {
      if (isSecret(branch)) add(path, 'secret')
      else if (branch.def.type === 'object') for (const [key, child] of Object.entries(branch.def.shape ?? {})) walk(child, [...path, key])
      else if (branch.def.type === 'number' || branch.def.type === 'int') add(path, 'number')
      else if (branch.def.type === 'boolean' || branch.def.values?.every(v => typeof v === 'boolean')) add(path, 'boolean')
      else if (['string', 'enum', 'literal'].includes(branch.def.type)) add(path, 'text')
    }
  }
  const add = (path: readonly string[], type: Setting['type']) => {
    const dotted = path.join('.')
    if (!found.has(dotted)) found.set(dotted, { path: dotted, env: envName(path), type })
  }
  walk(asNode(schema), [])
  return [...found.values()]
}

function envName(path: readonly string[]): string {
  return `CURFEW_${path.map(part => part.replace(/[A-Z]/g, letter => `_${letter}`).toUpperCase()).join('_')}`
}

/** The keys that are known at a path of the schema (in any branch of a union). */
export function keysAt(schema: z.ZodType, path: readonly PropertyKey[]): readonly string[] {
  let nodes: readonly Node[] = branches(asNode(schema))
  for (const part of path) {
    nodes = nodes.flatMap(node => {
      const child = typeof part === 'number' ? node.def.element : (node.def.shape?.[String(part)] ?? node.def.valueType)
      return child ? branches(child) : []
    })
  }
  return [...new Set(nodes.flatMap(node => Object.keys(node.def.shape ?? {})))]
}

/** The known name that a misspelt one probably meant: at most two edits away, or a third of its length, or equal but for `_`, `-` and case. Null: none is near. */
export function nearest(name: string, known: readonly string[]): string | null {
  const plain = (text: string) => text.toLowerCase().replace(/[^a-z0-9]/g, '')
  let best: { name: string; distance: number } | null = null
  for (const candidate of known) {
    const distance = plain(candidate) === plain(name) ? 0 : edits(name, candidate)
    if (distance <= Math.max(2, Math.floor(candidate.length / 3)) && (best === null || distance < best.distance)) best = { name: candidate, distance }
  }
  return best?.name ?? null
}
