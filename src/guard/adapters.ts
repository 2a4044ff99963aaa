/** Owns how frameworks ask a guard: by the shape of their requests, without importing one of them. */
import { GuardError } from './errors.js'
import type { VerifyOptions } from './guard.js'
import type { RequestLike } from './presented.js'
import type { Seen } from './seen.js'

declare global {
  // Merged with Express's own, where there is one. It is set on routes that a guard stands before.
  namespace Express {
    interface Request {
      curfew: Seen
    }
  }
}

type Verify = (request: RequestLike, options?: VerifyOptions) => Promise<Seen>

/** What a route needs; the resource may depend on the request. */
export interface Needs<R> {
  readonly scope?: string | readonly string[]
  readonly resource?: string | ((request: R) => string)
  readonly strict?: boolean
}

/** What Express, Connect and their like pass on. */
export interface RequestOfExpress extends RequestLike {
  readonly params: Readonly<Record<string, string | string[]>>
  curfew?: Seen
}
export interface ResponseOfExpress {
  statusCode: number
  setHeader(name: string, value: string): unknown
  end(body: string): unknown
  once(event: 'close', listener: () => void): unknown
}
export type Express = <R extends RequestLike = RequestOfExpress>(
  needs?: Needs<R>,
) => (req: R, res: ResponseOfExpress, next: (error?: unknown) => void) => Promise<void>
export type FetchHandler<Rest extends unknown[]> = (request: Request, seen: Seen, ...rest: Rest) => Response | Promise<Response>

/** A resource that cannot be told is none that may be reached. */
function neededOf<R>({ scope, resource, strict }: Needs<R>, request: R): VerifyOptions {
  const told = typeof resource === 'function' ? (resource(request) ?? '') : resource
  return { ...(scope === undefined ? {} : { scope }), ...(told === undefined ? {} : { resource: told }), ...(strict === undefined ? {} : { strict }) }
}

/** Sets `req.curfew`, or answers. What is no refusal goes to the error handler of the app. */
export function expressMiddleware<R extends RequestLike>(verify: Verify, needs: Needs<R> = {}) {
  return async (req: R, res: ResponseOfExpress, next: (error?: unknown) => void): Promise<void> => {
    let seen: Seen
    try {
      seen = await verify(req, neededOf(needs, req))
    } catch (error) {
      if (!(error instanceof GuardError)) return next(error)
      res.statusCode = error.status
      for (const [name, value] of Object.entries(error.headers())) res.setHeader(name, value)
      res.end(error.body())
      return
    }
    ;(req as { curfew?: Seen }).curfew = seen
    res.once('close', () => seen.release())
    next()
  }
}

export function fetchHandler<Rest extends unknown[]>(verify: Verify, handler: FetchHandler<Rest>, needs: Needs<Request> = {}) {
  return async (request: Request, ...rest: Rest): Promise<Response> => {
    let seen: Seen
    try {
      seen = await verify(request, neededOf(needs, request))
    } catch (error) {
      if (!(error instanceof GuardError)) throw error
      return new Response(error.body(), { status: error.status, headers: error.headers() })
    }
    const response = await handler(request, seen, ...rest)
    // A body may still be on its way: its signal is watched until the credential ends.
    if (response.body === null) seen.release()
    return response
  }
}
