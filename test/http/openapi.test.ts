/** Owns that the description is an OpenAPI document, of all routes and of nothing else, and that the page of it needs no script. */
import { Validator } from '@seriousme/openapi-schema-validator'
import { Ajv2020 } from 'ajv/dist/2020.js'
import formats from 'ajv-formats'
import type { Express } from 'express'
import supertest from 'supertest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { METHODS } from '../../src/http/declaration.js'
import { type OpenApi, pathOf } from '../../src/http/openapi.js'
import { type House, makeHouse, SERVER } from '../house.js'

let house: House
let document: OpenApi

beforeAll(async () => {
  house = await makeHouse()
  document = (await supertest(house.http).get('/openapi.json')).body
})
afterAll(() => house.close())

const operations = () =>
  Object.entries(document.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, o]) => ({ name: `${method} ${path}`, ...o })))

/** What express answers by something else than "no such route". */
function served(app: Express): { method: string; path: string }[] {
  const { stack } = app.router as unknown as { stack: { route?: { path: string | string[]; methods: Record<string, boolean> } }[] }
  return stack.flatMap(({ route }) =>
    route ? [route.path].flat().flatMap(path => Object.keys(route.methods).map(method => ({ method, path: pathOf(path) }))) : [],
  )
}

describe('/openapi.json', () => {
  it('is an OpenAPI 3.1 document by the schema of its specification', async () => {
    const { valid, errors } = await new Validator().validate(JSON.parse(JSON.stringify(document)))
    expect(errors ?? []).toEqual([])
    expect(valid).toBe(true)
  })

  it('the twin: the same with one member of another type is refused', async () => {
    const { valid } = await new Validator().validate({ ...JSON.parse(JSON.stringify(document)), paths: { '/x': { get: { responses: [] } } } })
    expect(valid).toBe(false)
  })

  it('every schema in it is one of JSON Schema 2020-12, and every reference leads somewhere', () => {
    const ajv = new Ajv2020({ strict: true, strictTypes: false, strictRequired: false, allowUnionTypes: true })
    formats.default(ajv)
    // What is no schema is left to the specification's own.
    for (const word of ['openapi', 'info', 'servers', 'tags', 'paths', 'components']) ajv.addKeyword(word)
    ajv.addSchema(document as object, 'doc')
    let seen = 0
    const walk = (node: unknown, at: string): void => {
      if (typeof node !== 'object' || node === null) return
      for (const [name, value] of Object.entries(node)) {
        const here = `${at}/${encodeURIComponent(name.replaceAll('~', '~0').replaceAll('/', '~1'))}`
        if (name === 'schema' || at.endsWith('/components/schemas')) {
          expect(() => ajv.compile({ $ref: `doc#${here}` }), here).not.toThrow()
          seen++
        } else walk(value, here)
      }
    }
    walk(document, '')
    expect(seen).toBeGreaterThan(100)
    const text = JSON.stringify(document)
    for (const [, section, name] of text.matchAll(/"#\/components\/(\w+)\/([^"]+)"/g))
      expect((document.components as unknown as Record<string, object>)[section as string], `${section}/${name}`).toHaveProperty([name as string])
  })

  it('names every route of the application, and nothing else', () => {
    const isSayable = ({ method }: { method: string }) => (METHODS as readonly string[]).includes(method)
    const routes = served(house.http)
    expect(
      operations()
        .map(o => o.name)
        .sort(),
    ).toEqual(
      routes
        .filter(isSayable)
        .map(r => `${r.method} ${r.path}`)
        .sort(),
    )
    // A proxy may ask about any method, also one that OpenAPI has no word for.
    expect(new Set(routes.filter(r => !isSayable(r)).map(r => r.path))).toEqual(new Set(['/v1/forward-auth/envoy', '/v1/forward-auth/envoy/{rest}']))
  })

  it('names each operation once, says of each in a line what it is for, and how it succeeds', () => {
    const all = operations()
    expect(new Set(all.map(o => o.operationId)).size).toBe(all.length)
    for (const { name, summary, security, responses } of all) {
      expect(summary, name).toMatch(/^\S.{2,120}$/)
      expect(security.length, name).toBeGreaterThan(0)
      expect(
        Object.keys(responses).some(status => status < '300'),
        name,
      ).toBe(true)
    }
  })

  it('H19 the table of routes is the one that was looked at last: who may call what', async () => {
    const by = (set: Readonly<Record<string, readonly string[]>>) =>
      Object.entries(set)
        .map(([scheme, rights]) => [scheme, ...rights].join(':'))
        .join('+') || 'anyone'
    const table = operations().map(({ name, security }) => `${name}  ${security.map(by).join(' | ')}`)
    await expect(`${table.sort().join('\n')}\n`).toMatchFileSnapshot('routes.txt')
  })

  it('says who may call as the route does: without credentials nothing is done that demands them', async () => {
    for (const { name, security } of operations()) {
      if (security.some(set => Object.keys(set).length === 0)) continue
      const [method = '', path = ''] = name.split(' ')
      if (method === 'trace') continue
      const answer = await (supertest(house.http) as unknown as Record<string, (path: string) => supertest.Test>)[method]?.(path.replace(/\{\w+\}/g, 'x'))
      expect([400, 401, 415], name).toContain(answer?.status)
    }
  })

  it('may be kept, and gives the configured address as the server', async () => {
    const answer = await supertest(house.http).get('/openapi.json')
    expect(answer.headers['cache-control']).toMatch(/^public, max-age=\d+$/)
    expect(answer.headers['content-type']).toMatch(/^application\/json\b/)
    expect(document.servers).toEqual([{ url: SERVER }])
  })
})

describe('/docs', () => {
  it('is a page without scripts and without anything from elsewhere, and its policy allows neither', async () => {
    const { headers, text } = await supertest(house.http).get('/docs')
    expect(headers['content-type']).toBe('text/html; charset=utf-8')
    expect(headers['content-security-policy']).toMatch(/^default-src 'none'; style-src 'sha256-[A-Za-z0-9+/=]+';/)
    expect(text).not.toMatch(/<script|\son\w+=|javascript:|<link|<img|url\(|@import/i)
    expect(text.match(/(?:src|href)="[^"#/][^"]*"/g)).toBeNull()
  })

  it('tells every operation and every shape, and each of its links leads somewhere', async () => {
    const { text } = await supertest(house.http).get('/docs')
    const ids = new Set([...text.matchAll(/\sid="([^"]+)"/g)].map(m => m[1]))
    for (const [path, methods] of Object.entries(document.paths)) {
      expect(text, path).toContain(path)
      expect(
        Object.values(methods).some(o => ids.has(o.operationId)),
        path,
      ).toBe(true)
    }
    for (const name of Object.keys(document.components.schemas)) expect(ids).toContain(`shape-${name}`)
    const links = [...text.matchAll(/href="#([^"]+)"/g)].map(m => m[1])
    expect(links.length).toBeGreaterThan(50)
    expect(links.filter(link => !ids.has(link))).toEqual([])
  })
})
