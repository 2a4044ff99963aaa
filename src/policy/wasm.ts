/** Owns the one door to Cedar's wasm: nothing else imports it, and whoever passes here has the process protected from it. */
import { createRequire } from 'node:module'
import v8 from 'node:v8'
import type { Context, StatefulAuthorizationCall } from '@cedar-policy/cedar-wasm/nodejs'
import type { Facts } from './context.js'

export type { Context, PolicyJson, SchemaJson } from '@cedar-policy/cedar-wasm/nodejs'

/**
 * V8 of Node 20 and 22 inlines hot calls from JavaScript into wasm, and when it has to deoptimise such a caller in the middle of the
 * call it aborts the whole process (seen within seconds under load; test/unit/policy/wasm-abort.test.ts reproduces it). It costs
 * nothing measurable to forbid the inlining. It must be said before callers of Cedar get hot: here, at import.
 */
v8.setFlagsFromString('--no-turbo-inline-js-wasm-calls')

export type Cedar = typeof import('@cedar-policy/cedar-wasm/nodejs')

/**
 * An instance of its own for every load. A policy that overruns the wasm stack (some 70 nested brackets) breaks the instance that
 * parses it for good; so a broken file breaks an instance that nobody uses yet. It also frees the former set: an instance cannot
 * forget what it preparsed. Costs about 60 ms.
 */
export function freshCedar(): Cedar {
  const require = createRequire(import.meta.url)
  const path = require.resolve('@cedar-policy/cedar-wasm/nodejs')
  delete require.cache[path]
  try {
    return require(path) as Cedar
  } finally {
    delete require.cache[path]
  }
}

export const ACTION = { type: 'Action', id: 'issue' } as const

/** Facts travel in the context and no entities do: entities cost three times the whole decision. */
export function callOf(set: string, identity: string, capability: string, facts: Facts): StatefulAuthorizationCall {
  return {
    principal: { type: 'Workload', id: identity },
    action: ACTION,
    resource: { type: 'Capability', id: capability },
    context: facts as Context,
    preparsedPolicySetId: set,
    entities: [],
  }
}
