/** Owns the witness: every answer of an application in the tests is held against its own description, which therefore cannot lie. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import formats from 'ajv-formats'
import type { Express } from 'express'
import type { ErrorCode } from '../src/domain/errors.js'
import { declared } from '../src/http/declaration.js'
import { ERROR_PAGES } from '../src/http/error-pages.js'
import { type Answer, describe, type JsonObject, type Operation } from '../src/http/openapi.js'

/** Seen since the last test asked, in sentences. */
export const lies: string[] = []

/** Watches an application; what it answers does not change. */
export function witnessed(app: Express, serverUrl: string): Express {
  const judge = judgeOf(app, serverUrl)
  const watched = app as unknown as { handle: (req: IncomingMessage, res: ServerResponse, next?: unknown) => void }
  const handle = watched.handle.bind(app)
  watched.handle = (req, res, next) => {
    const asked = bytesPushed(req)
    const told: Buffer[] = []
    const { write, end } = res
    const keep = (chunk: unknown, encoding: unknown) => {
      if (chunk && typeof chunk !== 'function') told.push(Buffer.from(chunk as string, typeof encoding === 'string' ? (encoding as BufferEncoding) : 'utf8'))
    }
    res.write = ((chunk: unknown, encoding?: unknown, done?: unknown) => {
      keep(chunk, encoding)
      return (write as (...args: unknown[]) => boolean).call(res, chunk, encoding, done)
    }) as typeof res.write
    res.end = ((chunk?: unknown, encoding?: unknown, done?: unknown) => {
      keep(chunk, encoding)
      // Before the answer leaves: the test that asked hears of it.
      lies.push(...judge(req, Buffer.concat(asked), res, Buffer.concat(told)))
      return (end as (...args: unknown[]) => ServerResponse).call(res, chunk, encoding, done)
    }) as typeof res.end
    handle(req, res, next)
  }
  return app
}

/** The body as it comes in, without reading the stream that the application reads. */
function bytesPushed(req: IncomingMessage): Buffer[] {
  const chunks: Buffer[] = []
  const push = req.push.bind(req)
  req.push = (chunk, encoding) => {
    if (chunk) chunks.push(chunk as Buffer)
    return push(chunk, encoding)
  }
  return chunks
}

interface Found {
  readonly at: string
  readonly operation: Operation
}

function judgeOf(app: Express, serverUrl: string) {
  const document = JSON.parse(JSON.stringify(describe(declared(app), { serverUrl, version: 'test' })), (name, value) =>
    name === 'responses' || name === 'schemas' ? closed(value) : value,
  ) as ReturnType<typeof describe>
  const paths = Object.keys(document.paths).map(path => ({ path, regex: regexOf(path) }))
  const ajv = new Ajv2020({ strict: false, allErrors: true })
  formats.default(ajv)
  ajv.addSchema(document, 'doc')
  const compiled = new Map<string, ValidateFunction>()

  function find(method: string, path: string): Found | null {
    const hit = paths.find(p => p.regex.test(path))?.path
    if (hit === undefined) return null
    const methods = document.paths[hit] ?? {}
    // What answers GET answers HEAD (RFC 9110 section 9.3.2).
    const name = method in methods ? method : method === 'head' ? 'get' : method
    const operation = methods[name]
    return operation ? { at: `doc#/paths/${pointer(hit)}/${name}`, operation } : null
  }

  function wrong(at: string, value: unknown): string[] {
    const validate = compiled.get(at) ?? ajv.compile({ $ref: at })
    compiled.set(at, validate)
    return validate(value) ? [] : (validate.errors ?? []).map(e => `${e.instancePath || '(whole)'} ${e.message} ${JSON.stringify(e.params)}`)
  }

  return (req: IncomingMessage, asked: Buffer, res: ServerResponse, told: Buffer): string[] => {
    const url = new URL(req.url ?? '/', serverUrl)
    const method = (req.method ?? '').toLowerCase()
    const found = find(method, url.pathname)
    if (!found) return []
    const { at, operation } = found
    const said = answerAt(document, at, operation, res.statusCode)
    const problems = said ? wrongAnswer(said, document.components.headers, method, res, told, wrong) : ['this status is not declared']
    if (res.statusCode < 300) problems.push(...wrongRequest(found, url, req, asked, wrong))
    else if (res.statusCode >= 400) problems.push(...unexplained(told))
    return problems.map(problem => `${req.method} ${url.pathname} → ${res.statusCode}: ${problem}${told.length < 2_000 ? `, in ${told}` : ''}`)
  }
}

type Wrong = (at: string, value: unknown) => string[]

function answerAt(document: ReturnType<typeof describe>, at: string, { responses }: Operation, status: number): { at: string; answer: Answer } | null {
  const answer = responses[status]
  if (!answer) return null
  if (!('$ref' in answer)) return { at: `${at}/responses/${status}`, answer }
  const name = answer.$ref.split('/').at(-1) as string
  return { at: `doc${answer.$ref}`, answer: document.components.responses[name] as Answer }
}

function wrongAnswer(
  { at, answer }: { at: string; answer: Answer },
  shared: Readonly<Record<string, JsonObject>>,
  method: string,
  res: ServerResponse,
  told: Buffer,
  wrong: Wrong,
): string[] {
  const found: string[] = []
  for (const [name, given] of Object.entries(answer.headers ?? {})) {
    const header = '$ref' in given ? (shared[name] as JsonObject) : given
    const value = res.getHeader(name)
    if (value === undefined && header.required) found.push(`the header ${name} is missing`)
    const where = '$ref' in given ? `doc${given.$ref}` : `${at}/headers/${pointer(name)}`
    const typed = (header.schema as JsonObject).type === 'integer' ? Number(value) : value
    if (value !== undefined) found.push(...wrong(`${where}/schema`, typed).map(w => `the header ${name}: ${w}`))
  }
  if (method === 'head') return found
  const type = String(res.getHeader('content-type') ?? '').toLowerCase()
  const content = answer.content ?? {}
  const named = Object.keys(content).find(name => type === name || type.split(';')[0] === name)
  if (Object.keys(content).length === 0) return told.length > 0 ? [...found, 'a body where none is declared'] : found
  if (named === undefined) return [...found, `the type ${type || '(none)'} is not declared`]
  return [...found, ...wrong(`${at}/content/${pointer(named)}/schema`, /\bjson$/.test(named) ? jsonOf(told) : told.toString())]
}

/** A refusal leads to a page, and the page must know why. */
function unexplained(told: Buffer): string[] {
  const { code, reason } = told[0] === 0x7b ? (jsonOf(told) as { code?: ErrorCode; reason?: string }) : {}
  if (code === undefined || reason === undefined) return []
  return Object.hasOwn(ERROR_PAGES[code].reasons, reason) ? [] : [`the page of ${code} does not know the reason ${reason}`]
}

/** What was accepted must be acceptable as described: a document that refuses more than we do lies as well. */
function wrongRequest({ at, operation }: Found, url: URL, req: IncomingMessage, asked: Buffer, wrong: Wrong): string[] {
  const found: string[] = []
  operation.parameters.forEach((parameter, i) => {
    if (parameter.in === 'path') return
    const given = parameter.in === 'query' ? url.searchParams.get(parameter.name) : (req.headersDistinct[parameter.name.toLowerCase()]?.[0] ?? null)
    if (given === null && parameter.required) found.push(`accepted without ${parameter.name}`)
    const value = parameter.schema.type === 'integer' ? Number(given) : given
    if (given !== null) found.push(...wrong(`${at}/parameters/${i}/schema`, value).map(w => `accepted with ${parameter.name}: ${w}`))
  })
  const [type] = Object.keys(operation.requestBody?.content ?? {})
  if (type === undefined) return found
  const body = type === 'application/json' ? jsonOf(asked) : formOf(asked.toString(), operation.requestBody?.content[type]?.schema)
  return [...found, ...wrong(`${at}/requestBody/content/${pointer(type)}/schema`, body).map(w => `accepted with the body: ${w}`)]
}

/** What is no JSON is a text to every schema: none of ours takes one for a body. */
function jsonOf(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString())
  } catch {
    return bytes.toString()
  }
}

/** RFC 6749 section 3.2: an empty parameter is none. */
function formOf(text: string, schema: JsonObject | undefined): Record<string, string | string[]> {
  const given = new URLSearchParams(text)
  const isList = (name: string) => ((schema?.properties as Record<string, JsonObject> | undefined)?.[name]?.type ?? '') === 'array'
  return Object.fromEntries(
    [...given].filter(([, v]) => v !== '').map(([name, value]) => [name, isList(name) ? given.getAll(name).filter(v => v !== '') : value]),
  )
}

const pointer = (name: string) => encodeURIComponent(name.replaceAll('~', '~0').replaceAll('/', '~1'))

const regexOf = (path: string) =>
  new RegExp(
    `^${path
      .replace(/[.*+?^$()|[\]\\]/g, '\\$&')
      .replaceAll('{rest}', '.*')
      .replace(/\{\w+\}/g, '[^/]+')}$`,
  )

/** To clients an answer may gain members; to this witness it may not, or a member that nobody described would never be seen. */
function closed(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(closed)
  if (typeof node !== 'object' || node === null) return node
  const inner = Object.fromEntries(Object.entries(node).map(([name, value]) => [name, closed(value)]))
  return inner.type === 'object' && inner.properties && inner.additionalProperties === undefined ? { ...inner, additionalProperties: false } : inner
}
