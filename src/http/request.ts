/** Owns reading a request strictly: headers that may come once, bodies with a size, a type and no member twice. */
import type { Request } from 'express'
import { CurfewError } from '../domain/errors.js'
import { parseStrictBytes } from '../domain/json.js'

/** Bytes. A token is at most 8 KiB; nothing we accept needs more. */
export const JSON_LIMIT = 16_384
export const FORM_LIMIT = 32_768
/** The whole body must have arrived by then. */
const BODY_MS = 5_000

const malformed = (message: string, reason: string, field?: string) => new CurfewError('malformed', message, { reason, ...(field ? { field } : {}) })

/** Every value of a header, never joined: Node joins repeats with `, ` and hides that there were two (P52). */
export function headerValues(req: Request, name: string): string[] {
  return req.headersDistinct[name] ?? []
}

/** One value or none; a repeat is refused. */
export function singleHeader(req: Request, name: string): string | undefined {
  const values = headerValues(req, name)
  if (values.length > 1) throw malformed('this header may come once only', 'header_repeated', name)
  return values[0]
}

/** The credentials of one `Authorization` header, by its scheme (case-insensitive, RFC 9110 section 11.1). */
export function authorization(req: Request): { scheme: string; value: string } | null {
  const header = singleHeader(req, 'authorization')
  if (header === undefined) return null
  const match = /^([A-Za-z]+) ([^\s,]+)$/.exec(header)
  if (!match)
    throw new CurfewError('attestation_refused', 'the Authorization header is not one scheme and one value', {
      reason: 'authorization_malformed',
      field: 'Authorization',
    })
  return { scheme: (match[1] as string).toLowerCase(), value: match[2] as string }
}

export async function rawBody(req: Request, limit: number): Promise<Buffer> {
  if (headerValues(req, 'content-encoding').some(v => v.toLowerCase() !== 'identity'))
    throw malformed('compressed bodies are not accepted', 'content_encoding', 'Content-Encoding')
  if (Number(req.headers['content-length'] ?? 0) > limit) throw tooLarge(limit)
  const chunks: Buffer[] = []
  let size = 0
  const timer = setTimeout(() => req.destroy(new Error('body deadline')), BODY_MS)
  try {
    for await (const chunk of req) {
      size += (chunk as Buffer).length
      if (size > limit) throw tooLarge(limit)
      chunks.push(chunk as Buffer)
    }
  } catch (error) {
    if (error instanceof CurfewError) throw error
    throw new CurfewError('malformed', 'the body did not arrive whole', { reason: 'body_incomplete' }, { cause: error })
  } finally {
    clearTimeout(timer)
  }
  return Buffer.concat(chunks)
}

/** Unread: for a caller that is authenticated by these very bytes. */
export async function jsonBytes(req: Request, limit: number): Promise<Buffer> {
  demandType(req, 'application/json')
  return rawBody(req, limit)
}

export async function jsonBody(req: Request): Promise<{ value: unknown; raw: Buffer }> {
  const raw = await jsonBytes(req, JSON_LIMIT)
  return { value: parseStrictBytes(raw, { maxDepth: 12, maxMembers: 256 }), raw }
}

/**
 * A form as RFC 6749 appendix B has it; a parameter may come once (section 3.2), an empty one counts as absent.
 * @param repeats those that may come several times, and so are lists (RFC 8707 section 2).
 */
export async function formBody(req: Request, repeats: readonly string[] = []): Promise<Record<string, string | string[]>> {
  demandType(req, 'application/x-www-form-urlencoded')
  const raw = await rawBody(req, FORM_LIMIT)
  const text = raw.toString('latin1')
  if (!/^[\x21-\x7e]*$/.test(text)) throw malformed('a form is ASCII', 'form_charset')
  // A null prototype: `__proto__` is a parameter like any other, and then an unknown one.
  const form: Record<string, string | string[]> = Object.create(null)
  for (const [name, value] of new URLSearchParams(text)) {
    const before = form[name]
    if (repeats.includes(name)) form[name] = [...(before ?? []), ...(value === '' ? [] : [value])]
    else if (before !== undefined) throw malformed('a parameter may come once only', 'parameter_repeated', /^[a-z_]{1,40}$/.test(name) ? name : 'form')
    else form[name] = value
  }
  for (const name of Object.keys(form)) if (form[name] === '') delete form[name]
  return form
}

function demandType(req: Request, type: string): void {
  const given = singleHeader(req, 'content-type')
  if (given === undefined || given.split(';')[0]?.trim().toLowerCase() !== type) throw malformed(`the body must be ${type}`, 'media_type', 'Content-Type')
}

function tooLarge(limit: number): CurfewError {
  return malformed(`the body may have ${limit} bytes at most`, 'body_too_large')
}
