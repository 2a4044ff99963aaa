/** Owns that a message has one reading: what Node's parser admits and another one on the way could read otherwise is refused, and its connection with it (H07). */
import type { Socket } from 'node:net'
import type { NextFunction, Request, Response } from 'express'
import { CurfewError } from '../domain/errors.js'

/** uri-host [ ":" port ] of RFC 9110 section 7.2, empty where the target has no authority. We read it nowhere; a proxy routes by it. */
const HOST = /^(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?$/

/** The first thing about it that two parsers could understand in two ways, or null. */
export function ambiguity(req: Pick<Request, 'httpVersion' | 'headersDistinct'>): CurfewError | null {
  const hosts = req.headersDistinct.host ?? []
  // RFC 9112 section 3.2.
  if (hosts.length === 0 && req.httpVersion === '1.1') return malformed('Host is missing', 'host_malformed', 'Host')
  if (hosts.length > 1) return malformed('Host may come once only', 'header_repeated', 'Host')
  if (!HOST.test(hosts[0] ?? '')) return malformed('Host is no host', 'host_malformed', 'Host')
  // RFC 9112 section 6.1: no coding but the one that we decode, and none before HTTP/1.1. Node looks at the last one named, and hands the others on undone.
  const codings = req.headersDistinct['transfer-encoding'] ?? []
  if (codings.length > 0 && (req.httpVersion !== '1.1' || codings.length > 1 || codings[0]?.trim().toLowerCase() !== 'chunked'))
    return malformed('the body must be chunked, once, or have a length', 'transfer_encoding', 'Transfer-Encoding')
  if (req.httpVersion !== '1.1' && req.httpVersion !== '1.0') return malformed('this server speaks HTTP/1.1', 'http_version', 'request line')
  return null
}

const malformed = (message: string, reason: string, field: string) => new CurfewError('malformed', message, { reason, field })

/** @param refuse answers with the error; the connection ends with that answer. */
export function oneReading(refuse: (req: Request, res: Response, error: CurfewError) => unknown) {
  const ended = new WeakSet<Socket>()
  return (req: Request, res: Response, next: NextFunction): void => {
    // What stands behind the last message of a connection is never done (RFC 9112 section 9.6); Node reads on and hands it over.
    if (ended.has(req.socket)) return
    const error = ambiguity(req)
    if (error || !res.shouldKeepAlive) ended.add(req.socket)
    if (!error) {
      next()
      return
    }
    res.setHeader('Connection', 'close')
    void refuse(req, res, error)
  }
}
