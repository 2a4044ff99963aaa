/** Owns the description of our doors: an OpenAPI 3.1 document, made of what the routes declare and of nothing else. */
import { z } from 'zod'
import type { Declaration, Scheme, Success } from './declaration.js'
import { SCHEMES } from './openapi-schemes.js'
import { bugShape, oauthBugShape, oauthErrorShape, problemShape, refusalsOf } from './problem-shapes.js'

export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json }
export type JsonObject = { readonly [name: string]: Json }

export interface Described {
  readonly serverUrl: string
  readonly version: string
}

export interface Operation {
  readonly operationId: string
  readonly summary: string
  readonly description?: string
  readonly tags: readonly [string]
  readonly security: readonly Readonly<Record<string, readonly string[]>>[]
  readonly parameters: readonly Parameter[]
  readonly requestBody?: { readonly required: boolean; readonly content: Content }
  readonly responses: Readonly<Record<string, Answer | { readonly $ref: string }>>
}
export interface Parameter {
  readonly name: string
  readonly in: 'path' | 'query' | 'header'
  readonly required: boolean
  readonly schema: JsonObject
}
export interface Answer {
  readonly description: string
  readonly headers?: Readonly<Record<string, JsonObject>>
  readonly content?: Content
}
export type Content = Readonly<Record<string, { readonly schema: JsonObject }>>

export interface OpenApi {
  readonly openapi: '3.1.1'
  readonly info: JsonObject
  readonly servers: readonly JsonObject[]
  readonly tags: readonly { readonly name: string }[]
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
  readonly components: {
    readonly schemas: Readonly<Record<string, JsonObject>>
    /** Refusals: many routes share them. */
    readonly responses: Readonly<Record<string, Answer>>
    readonly securitySchemes: Readonly<Record<string, JsonObject>>
    readonly headers: Readonly<Record<string, JsonObject>>
  }
}

export function describe(declarations: readonly Declaration[], { serverUrl, version }: Described): OpenApi {
  const shared: Shared = { schemas: {}, responses: {} }
  const paths: Record<string, Record<string, Operation>> = {}
  for (const d of declarations) {
    const path = pathOf(d.path)
    paths[path] ??= {}
    paths[path][d.method] = operationOf(d, path, shared)
  }
  const tags = [...new Set(Object.values(paths).flatMap(p => Object.values(p).map(o => o.tags[0])))].sort()
  return {
    openapi: '3.1.1',
    info: {
      title: 'Curfew',
      version,
      summary: 'Just-in-time ephemeral credentials: attested, task-scoped, short-lived, revoked at the target and proven dead.',
      description:
        'Members and query parameters that are not named here are refused by name; the OAuth endpoints ignore what they do not recognise (RFC 6749). Members may be added to answers.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: serverUrl }],
    tags: tags.map(name => ({ name })),
    paths,
    components: {
      schemas: sorted(shared.schemas),
      responses: sorted(shared.responses),
      securitySchemes: SCHEMES,
      headers: {
        'X-Request-ID': { description: 'Of this request, in our log and audit.', required: true, schema: { type: 'string' } },
        'WWW-Authenticate': { description: 'How to come again.', required: true, schema: { type: 'string' } },
        'DPoP-Nonce': { description: 'For the next proof, where the deployment demands one (RFC 9449 section 8).', schema: { type: 'string' } },
        'Retry-After': { description: 'Seconds.', schema: { type: 'integer', minimum: 0 } },
      },
    },
  }
}

/** What is named once: grows while the operations are made. */
interface Shared {
  readonly schemas: Record<string, JsonObject>
  readonly responses: Record<string, Answer>
}

const sorted = <T>(entries: Readonly<Record<string, T>>): Record<string, T> => Object.fromEntries(Object.entries(entries).sort(([a], [b]) => (a < b ? -1 : 1)))

/** Express's spelling into OpenAPI's: `:id` and `*rest` are in braces, an escaped colon is a colon. */
export const pathOf = (path: string): string => path.replace(/(?<!\\)[:*](\w+)/g, '{$1}').replaceAll('\\:', ':')

function operationOf(d: Declaration, path: string, shared: Shared): Operation {
  const asked = (schema: z.ZodType) => schemaOf(schema, 'input', shared)
  const body = d.json ?? d.form ?? d.rawBody
  const type = d.form ? 'application/x-www-form-urlencoded' : 'application/json'
  return {
    operationId: [d.method, ...path.split(/[^A-Za-z0-9]+/)].filter(Boolean).join('_'),
    summary: d.summary,
    ...(d.description ? { description: d.description } : {}),
    tags: [tagOf(path)],
    security: securityOf(d),
    parameters: [...pathParameters(d, path, asked), ...queryParameters(d, asked), ...headerParameters(d, asked)],
    ...(body ? { requestBody: { required: true, content: { [type]: { schema: asked(body) } } } } : {}),
    responses: responsesOf(d, shared),
  }
}

function tagOf(path: string): string {
  const [first = '', second = ''] = path.split('/').slice(1)
  if (first === '.well-known') return 'metadata'
  if (first === 'v1') return second.split(':')[0] as string
  return first === 'oauth2' || first === 'access' ? first : 'server'
}

/** Alternatives of sets; an empty set is no credentials at all. Of an operator the right is named, which its role must have. */
function securityOf(d: Declaration): Operation['security'] {
  if (d.who === 'public') return (d.shows ?? [[]]).map(set => Object.fromEntries(set.map(scheme => [scheme, []])))
  const { holder, operator, guard } = d.who
  const sets: Partial<Record<Scheme, readonly string[]>>[] = []
  if (holder) sets.push({ taskToken: [], proof: [] })
  if (operator) sets.push({ operator: [operator] })
  if (guard) sets.push({ guard: [] })
  return sets
}

type Asked = (schema: z.ZodType) => JsonObject

function pathParameters(d: Declaration, path: string, asked: Asked): Parameter[] {
  return [...path.matchAll(/\{(\w+)\}/g)].map(([, name = '']) => {
    const schema = d.params?.[name]
    return { name, in: 'path', required: true, schema: schema ? asked(schema) : { type: 'string' } }
  })
}

function headerParameters(d: Declaration, asked: Asked): Parameter[] {
  return Object.entries(d.headers ?? {}).map(([name, schema]) => ({
    name,
    in: 'header',
    required: !schema.safeParse(undefined).success,
    schema: asked(schema),
  }))
}

function queryParameters(d: Declaration, asked: Asked): Parameter[] {
  if (!d.query) return []
  const { properties, required } = asked(d.query) as { properties: Record<string, JsonObject>; required?: string[] }
  return Object.entries(properties).map(([name, schema]) => ({ name, in: 'query', required: required?.includes(name) ?? false, schema }))
}

const REQUEST_ID = { 'X-Request-ID': { $ref: '#/components/headers/X-Request-ID' } }

function successesOf(d: Declaration, shared: Shared): Record<string, Answer> {
  const told = (success: Success): Answer => {
    const headers = Object.entries(success.headers ?? {}).map(([name, schema]) => [name, { required: true, schema: schemaOf(schema, 'output', shared) }])
    const content: Record<string, { schema: JsonObject }> = {}
    if (success.body) content['application/json'] = { schema: schemaOf(success.body, 'output', shared) }
    for (const type of success.text ?? []) content[type] = { schema: { type: 'string' } }
    return {
      description: success.what ?? 'Done.',
      headers: { ...REQUEST_ID, ...nonceOf(d), ...Object.fromEntries(headers) },
      ...(Object.keys(content).length > 0 ? { content } : {}),
    }
  }
  return Object.fromEntries(Object.entries(d.successes).map(([status, success]) => [status, told(success)]))
}

/** Where a status is an answer and a refusal as well, the media type tells which. */
function responsesOf(d: Declaration, shared: Shared): Operation['responses'] {
  const responses: Record<string, Answer | { $ref: string }> = successesOf(d, shared)
  for (const { status, what, answer } of refusalAnswersOf(d, shared)) {
    const success = responses[status] as Answer | undefined
    const name = `${status}_${what}${takesProof(d) ? '_nonce' : ''}`
    if (success) responses[status] = { ...answer, ...success, content: { ...answer.content, ...success.content } }
    else {
      shared.responses[name] ??= answer
      responses[status] = { $ref: `#/components/responses/${name}` }
    }
  }
  shared.responses['431_headers'] ??= { description: 'The headers are longer than 16 KiB. The listener says so before any route: there is no body.' }
  return { ...responses, 431: { $ref: '#/components/responses/431_headers' } }
}

const takesProof = (d: Declaration) => (d.who === 'public' ? d.shows?.flat().includes('proof') : d.who.holder) === true
const nonceOf = (d: Declaration): Record<string, JsonObject> => (takesProof(d) ? { 'DPoP-Nonce': { $ref: '#/components/headers/DPoP-Nonce' } } : {})

/** Only to who authenticates by the header (RFC 6749 section 5.2); elsewhere always (RFC 9110 section 15.5.2). */
const OAUTH_CHALLENGE = { description: 'For a client that authenticates by the Authorization header.', schema: { type: 'string' } }

const headersOf = (d: Declaration, status: number) => ({
  ...REQUEST_ID,
  ...nonceOf(d),
  ...(status === 401 ? { 'WWW-Authenticate': d.oauth ? OAUTH_CHALLENGE : { $ref: '#/components/headers/WWW-Authenticate' } } : {}),
  ...(status === 429 || status >= 500 ? { 'Retry-After': { $ref: '#/components/headers/Retry-After' } } : {}),
})

function refusalAnswersOf(d: Declaration, shared: Shared): { status: number; what: string; answer: Answer }[] {
  const type = d.oauth ? 'application/json' : 'application/problem+json'
  const refusal = (status: number, what: string, description: string, schema: JsonObject) => ({
    status,
    what,
    answer: { description, headers: headersOf(d, status), content: { [type]: { schema } } },
  })
  if (d.oauth) {
    const error = schemaOf(oauthErrorShape, 'output', shared)
    return [
      refusal(400, 'oauth', 'Refused (RFC 6749 section 5.2).', error),
      refusal(401, 'oauth', 'The client did not authenticate.', error),
      refusal(429, 'oauth', 'Too many.', error),
      refusal(500, 'oauth', 'Our failure.', schemaOf(oauthBugShape, 'output', shared)),
      refusal(503, 'oauth', 'Not now.', error),
    ]
  }
  if (d.plain) {
    const sentence = (status: number, codes: readonly string[]) => ({
      status,
      what: `plain_${codes.join('-')}`,
      answer: {
        description: `Refused, in a sentence: ${codes.join(', ')}.`,
        headers: headersOf(d, status),
        content: { 'text/plain': { schema: { type: 'string' } } },
      },
    })
    return [...[...refusalsOf(d)].map(([status, codes]) => sentence(status, codes)), sentence(500, ['bug'])]
  }
  const problem = schemaOf(problemShape, 'output', shared)
  const narrowed = (status: number, codes: readonly string[]) => ({ allOf: [problem, { properties: { status: { const: status }, code: { enum: codes } } }] })
  return [
    ...[...refusalsOf(d)].map(([status, codes]) => refusal(status, codes.join('-'), `${codes.join(', ')}.`, narrowed(status, codes))),
    refusal(500, 'bug', 'Our failure.', schemaOf(bugShape, 'output', shared)),
  ]
}

/** What has a name goes to the components, everything else stands where it is used. */
function schemaOf(schema: z.ZodType, io: 'input' | 'output', { schemas }: Shared): JsonObject {
  const { $schema: _, $defs, ...own } = z.toJSONSchema(schema, { io, override: ({ jsonSchema }) => tidy(jsonSchema, io) }) as JsonObject
  const lifted = <T>(value: T): T => JSON.parse(JSON.stringify(value).replaceAll('"#/$defs/', '"#/components/schemas/'))
  for (const [name, of] of Object.entries(($defs ?? {}) as Record<string, JsonObject>)) {
    const known = schemas[name]
    if (known && JSON.stringify(known) !== JSON.stringify(lifted(of))) throw new TypeError(`two shapes are called ${name}`)
    schemas[name] = lifted(of)
  }
  return lifted(own)
}

/** An answer may gain members and its numbers have no range of ours; a pattern beside `date-time` says the same again at great length. */
function tidy(schema: Record<string, unknown>, io: 'input' | 'output'): void {
  if (io === 'input') return
  if (schema.additionalProperties === false) delete schema.additionalProperties
  if (schema.format === 'date-time') delete schema.pattern
  for (const bound of ['minimum', 'maximum']) if (Math.abs(Number(schema[bound])) === Number.MAX_SAFE_INTEGER) delete schema[bound]
}
