/** Owns showing the pages of errors: `/e/{code}` is what the `type` of a problem names (RFC 9457 section 3.1.1). */
import type { Express } from 'express'
import { z } from 'zod'
import { CurfewError, ERROR_CODES, type ErrorCode } from '../domain/errors.js'
import { CSP } from './description.js'
import { ERROR_PAGES } from './error-pages.js'
import { STYLE, text } from './openapi-page.js'
import { tellingOf } from './problem.js'
import { type Doors, route } from './route.js'

export function errorRoutes(app: Express, doors: Doors): void {
  const successes = { 200: { text: ['text/html; charset=utf-8'], headers: { 'Cache-Control': z.string() } } }
  const headers = { 'Cache-Control': 'public, max-age=300', 'Content-Type': 'text/html; charset=utf-8', 'Content-Security-Policy': CSP }
  route(app, doors, {
    method: 'get',
    path: '/e',
    who: 'public',
    summary: 'Every error code',
    successes,
    answer: async () => ({ status: 200, headers, body: page('Errors', `<ul>${ERROR_CODES.map(listed).join('')}</ul>`) }),
  })
  route(app, doors, {
    method: 'get',
    path: '/e/:code',
    who: 'public',
    summary: 'What an error code means',
    params: { code: z.string() },
    successes,
    refuses: ['not_found'],
    answer: async ({ params }) => {
      const code = ERROR_CODES.find(c => c === params.code)
      if (!code) throw new CurfewError('not_found', 'no such error code', { reason: 'not_found', field: 'code' })
      return { status: 200, headers, body: page(code, told(code)) }
    },
  })
}

const listed = (code: ErrorCode) => `<li><a href="/e/${code}"><code>${code}</code></a> ${text(ERROR_PAGES[code].means)}</li>`

function told(code: ErrorCode): string {
  const { means, next, reasons } = ERROR_PAGES[code]
  const { status, title, action } = tellingOf(code)
  const rows = Object.entries(reasons).map(([reason, says]) => `<tr id="${reason}"><td><code>${reason}</code></td><td>${marked(says)}</td></tr>`)
  return `<p><strong>${text(title)}</strong>, status ${status}; an agent should: <code>${action}</code>.</p>
<p>${marked(means)}</p>
<p>${marked(next)}</p>
${rows.length > 0 ? `<h2>Reasons</h2><table>${rows.join('')}</table>` : ''}
<p><a href="/e">All codes</a></p>`
}

/** Words between backticks are code. */
const marked = (words: string) => text(words).replace(/`([^`]+)`/g, '<code>$1</code>')

const page = (title: string, body: string) => `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Curfew: ${title}</title><style>${STYLE}</style></head>
<body>
<h1><code>${title}</code></h1>
${body}
</body>
</html>
`
