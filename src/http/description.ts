/** Owns the doors that tell of all the others: the description for machines, and the same as a page for people. */
import { createHash } from 'node:crypto'
import type { Express } from 'express'
import { z } from 'zod'
import { version } from '../domain/version.js'
import { declared } from './declaration.js'
import { describe } from './openapi.js'
import { pageOf, STYLE } from './openapi-page.js'
import { type Doors, route } from './route.js'

/** It changes with a release only. Seconds. */
const MAX_AGE = 3_600

/** Nothing is loaded and nothing runs; the one style sheet is named by its hash. */
export const CSP = `default-src 'none'; style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`

/** To be called after all others: what is declared later is not in it. */
export function descriptionRoutes(app: Express, doors: Doors): void {
  const cached = { 'Cache-Control': `public, max-age=${MAX_AGE}` }
  let said: { readonly json: string; readonly page: string } | undefined
  // Once, and not before somebody asks: a process that answers no one spends nothing on it.
  const description = () => {
    if (!said) {
      const document = describe(declared(app), { serverUrl: doors.serverUrl, version: version() })
      said = { json: JSON.stringify(document), page: pageOf(document) }
    }
    return said
  }

  route(app, doors, {
    method: 'get',
    path: '/openapi.json',
    who: 'public',
    summary: 'This description',
    successes: { 200: { text: ['application/json'], headers: { 'Cache-Control': z.string() } } },
    answer: async () => ({ status: 200, headers: { ...cached, 'Content-Type': 'application/json' }, body: description().json }),
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
