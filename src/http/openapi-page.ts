/** Owns the description as a page: every operation and every shape, readable without a script. */
import type { Answer, Json, JsonObject, OpenApi, Operation } from './openapi.js'

export const STYLE = `
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
pre, code { font: 14px/1.45 ui-monospace, monospace }
pre { overflow-x: auto; margin: .25rem 0; padding: .5rem .75rem; border-left: 3px solid #8888 }
summary { cursor: pointer; padding: .25rem 0 }
summary code { font-weight: 600 }
details > :not(summary) { margin-left: 1.25rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-top: 1px solid #8884 }
nav a { margin-right: 1rem }
`

export function pageOf(document: OpenApi): string {
  const { info, paths, components, tags } = document
  const operations = Object.entries(paths).flatMap(([path, methods]) => alike(path, methods))
  const section = (tag: string) =>
    `<section id="${tag}"><h2>${tag}</h2>${operations
      .filter(({ operation }) => operation.tags[0] === tag)
      .map(shown => operationHtml(shown, components.responses))
      .join('')}</section>`
  const shapes = Object.entries(components.schemas).map(
    ([name, shape]) => `<details id="shape-${name}"><summary><code>${name}</code></summary>${described(shape)}<pre>${notation(shape)}</pre></details>`,
  )
  const schemes = Object.entries(components.securitySchemes).map(
    ([name, scheme]) => `<tr id="by-${name}"><td><code>${name}</code></td><td>${schemeHtml(scheme)}</td></tr>`,
  )
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Curfew: HTTP API</title><style>${STYLE}</style></head>
<body>
<h1>Curfew ${text(info.version)}</h1>
<p>${text(info.summary)} ${text(info.description)}</p>
<p>The same for machines: <a href="/openapi.json"><code>/openapi.json</code></a>, OpenAPI ${document.openapi}.</p>
<nav>${[...tags.map(t => t.name), 'callers', 'shapes'].map(name => `<a href="#${name}">${name}</a>`).join(' ')}</nav>
${tags.map(t => section(t.name)).join('\n')}
<section id="callers"><h2>callers</h2><table>${schemes.join('')}</table></section>
<section id="shapes"><h2>shapes</h2>${shapes.join('')}</section>
</body>
</html>
`
}

interface Shown {
  readonly methods: readonly string[]
  readonly path: string
  readonly operation: Operation
}

/** A path that answers several methods in one way is told once. */
function alike(path: string, methods: Readonly<Record<string, Operation>>): Shown[] {
  const shown = new Map<string, Shown>()
  for (const [method, operation] of Object.entries(methods)) {
    const key = JSON.stringify({ ...operation, operationId: '' })
    const known = shown.get(key)
    shown.set(key, known ? { ...known, methods: [...known.methods, method] } : { methods: [method], path, operation })
  }
  return [...shown.values()]
}

function operationHtml({ methods, path, operation: o }: Shown, responses: OpenApi['components']['responses']): string {
  const parameters = o.parameters.map(
    p =>
      `<tr><td><code>${text(p.name)}</code></td><td>${p.in}${p.required ? ', required' : ''}</td><td><code>${notation(p.schema)}</code>${described(p.schema)}</td></tr>`,
  )
  const [body] = Object.entries(o.requestBody?.content ?? {})
  return `<details id="${o.operationId}"><summary><code>${methods.join(', ').toUpperCase()} ${text(path)}</code> ${text(o.summary)}</summary>
${o.description ? `<p>${text(o.description)}</p>` : ''}
<p>By ${o.security.map(securityHtml).join(', or ')}.</p>
${parameters.length > 0 ? `<table>${parameters.join('')}</table>` : ''}
${body ? `<p>Body, <code>${text(body[0])}</code>:</p><pre>${notation(body[1].schema)}</pre>` : ''}
<table>${Object.entries(o.responses)
    .map(([status, answer]) => answerHtml(status, '$ref' in answer ? (responses[answer.$ref.split('/').at(-1) as string] as Answer) : answer))
    .join('')}</table>
</details>`
}

function securityHtml(set: Operation['security'][number]): string {
  const schemes = Object.entries(set).map(
    ([name, rights]) => `<a href="#by-${name}">${name}</a>${rights.length > 0 ? ` with the right <code>${rights.join(' ')}</code>` : ''}`,
  )
  return schemes.join(' and ') || 'anyone'
}

function answerHtml(status: string, { description, content = {} }: Answer): string {
  const problem = content['application/problem+json']
  const codes = problem ? codesOf(problem.schema) : []
  const bodies = Object.entries(content)
    .filter(([, body]) => body !== problem)
    .map(([type, { schema }]) => (type === 'application/json' ? `<pre>${notation(schema)}</pre>` : ` <code>${text(type)}</code>`))
  const links = codes.map(code => `<a href="/e/${code}">${code}</a>`).join(', ')
  // A refusal alone is described by its codes.
  const what = description === `${codes.join(', ')}.` ? '' : text(description)
  return `<tr><td>${status}</td><td>${[what, links].filter(Boolean).join(' ')}${bodies.join('')}</td></tr>`
}

/** Of a problem: each has a page of its own. */
function codesOf(schema: JsonObject): readonly string[] {
  const [, narrowed] = (schema.allOf ?? []) as JsonObject[]
  return ((narrowed?.properties as JsonObject | undefined)?.code as { readonly enum: readonly string[] } | undefined)?.enum ?? []
}

function schemeHtml(scheme: JsonObject): string {
  const how = scheme.type === 'http' ? `Authorization: ${text(scheme.scheme)} …` : `${text(scheme.name)}: …`
  return `<code>${how}</code> ${text(scheme.description)}`
}

const described = (schema: JsonObject) => (schema.description === undefined ? '' : `<p>${text(schema.description)}</p>`)

/** A schema as one would write the type by hand; a reference is a link. Escaped. */
export function notation(schema: Json | undefined, indent = ''): string {
  if (schema === undefined || schema === null || typeof schema !== 'object' || Array.isArray(schema)) return 'anything'
  const s = schema as JsonObject
  if (typeof s.$ref === 'string') {
    const name = s.$ref.split('/').at(-1) as string
    return `<a href="#shape-${name}">${name}</a>`
  }
  if (s.const !== undefined) return text(JSON.stringify(s.const))
  const either = (s.enum as Json[] | undefined)?.map(value => text(JSON.stringify(value))) ?? listed(s.oneOf ?? (s.type ? undefined : s.anyOf), indent)
  if (either) return either.join(' | ')
  const all = listed(s.allOf, indent)
  if (all) return all.join(' and ')
  if (Array.isArray(s.type)) return s.type.map(type => notation({ ...s, type }, indent)).join(' | ')
  if (s.type === 'array') return `${grouped(notation(s.items, indent))}[]`
  if (s.type === 'object') return objectOf(s, indent)
  if (s.type === 'string')
    return `string${s.format ? ` ${text(s.format)}` : s.pattern ? ` ${text(`/${String(s.pattern)}/`)}` : ''}${range(s.minLength, s.maxLength, ' characters')}`
  if (s.type === 'integer' || s.type === 'number') return `${s.type}${range(s.minimum, s.maximum, '')}`
  return text(s.type ?? 'anything')
}

const listed = (schemas: Json | undefined, indent: string) => (schemas as Json[] | undefined)?.map(schema => notation(schema, indent))
const grouped = (type: string) => (type.includes(' | ') ? `(${type})` : type)

function objectOf(s: JsonObject, indent: string): string {
  const required = new Set((s.required ?? []) as string[])
  const inner = `${indent}  `
  const members = Object.entries((s.properties ?? {}) as JsonObject).map(
    ([name, of]) => `${inner}${text(name)}${required.has(name) ? '' : '?'}: ${notation(of, inner)}`,
  )
  const others = s.additionalProperties
  if (others !== undefined && others !== false) members.push(`${inner}[name]: ${notation(others, inner)}`)
  return members.length > 0 ? `{\n${members.join('\n')}\n${indent}}` : '{}'
}

function range(min: Json | undefined, max: Json | undefined, unit: string): string {
  const isEnd = (n: Json | undefined): n is number => typeof n === 'number' && Math.abs(n) < Number.MAX_SAFE_INTEGER
  if (isEnd(min) && isEnd(max)) return ` ${min}…${max}${unit}`
  return isEnd(max) ? ` ≤ ${max}${unit}` : isEnd(min) ? ` ≥ ${min}${unit}` : ''
}

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
/** Escaped. */
export const text = (value: Json | undefined): string => String(value ?? '').replace(/[&<>"']/g, c => ENTITIES[c] as string)
