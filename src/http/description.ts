/** Owns the doors that tell of all the others: the description for machines, and the same as a page for people. */
import { createHash } from 'node:crypto'
import type { Express } from 'express'
import { z } from 'zod'
import { version } from '../domain/version.js'
import { declared } from './declaration.js'
import { describe } from './openapi.js'
import { pageOf, STYLE } from './openapi-page.js'
import { type Doors, route } from './route.js'
import type { As } from './shapes.js'

/** It changes with a release only. Seconds. */
const MAX_AGE = 3_600

/** Nothing is loaded and nothing runs; the one style sheet is named by its hash. */
export const CSP = `default-src 'none'; style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`

/** Its whole shape is the specification's to say (OpenAPI 3.1.1); the tests hold it against that. */
const documentShape = z.looseObject({
  openapi: z.literal('3.1.1'),
  info: z.looseObject({ title: z.string(), version: z.string() }),
  paths: z.record(z.string(), z.unknown()),
  components: z.looseObject({}),
})

/** To be called after all others: what is declared later is not in it. */
export function descriptionRoutes(app: Express, doors: Doors): void {
  const cached = { 'Cache-Control': `public, max-age=${MAX_AGE}` }
  let said: { readonly document: As<typeof documentShape>; readonly page: string } | undefined
  // Once, and not before somebody asks: a process that answers no one spends nothing on it.
  const description = () => {
    if (!said) {
      const document = describe(declared(app), { serverUrl: doors.serverUrl, version: version() })
      said = { document: document as unknown as As<typeof documentShape>, page: pageOf(document) }
    }
    return said
  }

  route(app, doors, {
    method: 'get',
    path: '/openapi.json',
    who: 'public',
    summary: 'This description',
    successes: { 200: { body: documentShape, headers: { 'Cache-Control': z.string() } } },
    answer: async () => ({ status: 200, headers: cached, body: description().document }),
  })
  route(app, doors, {
    method: 'get',
    path: '/docs',
    who: 'public',
    summary: 'This description as a page',
    successes: { 200: { text: ['text/html; charset=utf-8'], headers: { 'Cache-Control': z.string() } } },
    answer: async () => ({
      status: 200,
      headers: { ...cached, 'Content-Type': 'text/html; charset=utf-8', 'Content-Security-Policy': CSP },
      body: description().page,
    }),
  })
}
