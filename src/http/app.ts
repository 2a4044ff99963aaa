/** Owns the public application: strict routing, no framework extras, one error translation. */
import express, { type ErrorRequestHandler, type Express } from 'express'
import helmet from 'helmet'
import { CurfewError } from '../domain/errors.js'
import { authzenRoutes } from './authzen.js'
import { credentialRoutes } from './credentials.js'
import { descriptionRoutes } from './description.js'
import { errorRoutes } from './error-page.js'
import { evidenceRoutes } from './evidence.js'
import { feedRoutes } from './feed.js'
import { forwardAuthRoutes } from './forward-auth.js'
import { oneReading } from './framing.js'
import { hookRoutes } from './hooks.js'
import { introspectionRoutes } from './introspection.js'
import { metadataRoutes } from './metadata.js'
import { quarantineRoutes } from './quarantines.js'
import { revocationRoutes } from './revocations.js'
import { type Doors, nameRequest, refuse } from './route.js'
import { signalRoutes } from './signals.js'
import { sshRoutes } from './ssh.js'
import { taskRoutes } from './tasks.js'
import { tokenRoutes } from './token-endpoint.js'
import { tokenRevocationRoutes } from './token-revocation.js'

export function createApp(doors: Doors): Express {
  const app = express()
  app.disable('x-powered-by')
  app.disable('etag')
  app.enable('strict routing')
  app.enable('case sensitive routing')
  app.set('query parser', 'simple')
  app.set('trust proxy', false)
  app.use(nameRequest)
  app.use(helmet())
  app.use(oneReading((req, res, error) => refuse(doors, { path: '?' }, req, res, res.locals.requestId as string, error)))
  metadataRoutes(app, doors)
  tokenRoutes(app, doors)
  introspectionRoutes(app, doors)
  tokenRevocationRoutes(app, doors)
  taskRoutes(app, doors)
  credentialRoutes(app, doors)
  evidenceRoutes(app, doors)
  revocationRoutes(app, doors)
  quarantineRoutes(app, doors)
  signalRoutes(app, doors)
  feedRoutes(app, doors)
  forwardAuthRoutes(app, doors)
  authzenRoutes(app, doors)
  hookRoutes(app, doors)
  sshRoutes(app, doors)
  errorRoutes(app, doors)
  descriptionRoutes(app, doors)
  app.use((req, res) =>
    refuse(doors, { path: '?' }, req, res, res.locals.requestId as string, new CurfewError('not_found', 'no such route', { reason: 'route_unknown' })),
  )
  app.use(fallen(doors))
  return app
}

/** What express itself cannot read, and whatever falls out of it: told as everything else is, where its own answer would be a stack (H22). */
function fallen(doors: Doors): ErrorRequestHandler {
  return (error: unknown, req, res, _next) => {
    if (res.headersSent) return void res.destroy()
    const told = error instanceof URIError ? new CurfewError('malformed', 'the path is no UTF-8', { reason: 'path_malformed', field: 'path' }) : error
    return refuse(doors, { path: '?' }, req, res, res.locals.requestId as string, told)
  }
}
