/** Owns the forward-auth process: `curfew forward-auth`. A guard behind a listener, beside a proxy. */
import { createServer } from 'node:http'
import { forwardAuthFromProcess } from '../src/config.js'
import { CurfewError } from '../src/domain/errors.js'
import { enter, untilSignalled } from '../src/entry.js'
import { forwardAuthHandler } from '../src/guard/forward-auth.js'
import { createGuard, type Guard } from '../src/guard/guard.js'
import { createLog } from '../src/log.js'

/** Requests in flight are answered. Milliseconds. */
const GOODBYE_MS = 5_000

await enter(async () => {
  const settings = forwardAuthFromProcess()
  const { issuer, audience, audienceName, audienceSecret, guardKey, proof, maxStaleMs, whenStale, feedUrls } = settings
  const log = createLog({ level: 'info', name: 'forward-auth' })
  let guard: Guard
  try {
    const introspection = audienceName !== null && audienceSecret !== null ? { client: audienceName, secret: audienceSecret } : undefined
    guard = createGuard({ issuer, audience, guardKey, proof, revocation: { maxStaleMs, whenStale }, introspection, feedUrls, log })
  } catch (cause) {
    // The guard names its setting; it is ours under another spelling.
    if (!(cause instanceof TypeError)) throw cause
    throw new CurfewError('malformed', cause.message.replace('createGuard: ', ''), { reason: 'setting_invalid' }, { cause })
  }
  const audiences = [audience, ...(audienceName === null ? [] : [audienceName])]
  const server = createServer(
    { headersTimeout: 5_000, requestTimeout: 10_000, keepAliveTimeout: 65_000, maxHeaderSize: 32_768, insecureHTTPParser: false },
    forwardAuthHandler({ guard, audiences, scopes: settings.scopes, maxStaleMs, log }),
  )
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => {
      guard.close()
      reject(new CurfewError('unavailable', `it cannot listen (${cause.code ?? 'unknown'})`, { reason: 'listen_failed', field: 'CURFEW_LISTEN' }, { cause }))
    })
    server.listen(settings.listen.port, settings.listen.host, () => resolve())
  })
  log.info({ ...settings.listen, audience, proof, maxStaleMs, whenStale }, 'listening: 503 until there are keys and a fresh feed')
  guard.ready().then(
    () => log.info({ ...guard.health() }, 'ready'),
    err => log.error({ err, ...guard.health() }, 'there are no keys or no fresh feed yet: nothing passes'),
  )
  untilSignalled(async () => {
    await new Promise<void>(resolve => {
      server.close(() => resolve())
      server.closeIdleConnections()
      setTimeout(() => server.closeAllConnections(), GOODBYE_MS - 1_000).unref()
    })
    guard.close()
  }, GOODBYE_MS)
})
