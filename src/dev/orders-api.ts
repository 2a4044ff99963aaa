/** Owns the small protected API of dev and demo: it verifies the token and its proof, and asks introspection every time. */
import { createServer, type IncomingMessage } from 'node:http'
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { verifyProof } from '../domain/dpop.js'
import { CurfewError } from '../domain/errors.js'
import { call } from './workload.js'

export interface OrdersApi {
  readonly url: string
  close(): Promise<void>
}

export interface OrdersOptions {
  readonly port: number
  /** Of Curfew. */
  readonly issuer: string
  readonly servers: readonly { readonly path: string; readonly name: string; readonly uri: string; readonly secret: string; readonly bound: boolean }[]
}

const ORDERS = [
  { id: 1, item: 'lamp', quantity: 2 },
  { id: 2, item: 'chair', quantity: 4 },
]

class Refused extends Error {}

export async function startOrdersApi(options: OrdersOptions): Promise<OrdersApi> {
  const url = `http://127.0.0.1:${options.port}`
  const jwks = createRemoteJWKSet(new URL(`${options.issuer}/.well-known/jwks.json`))
  /** The resource server's own replay store; one process, so memory is enough. */
  const seen = new Set<string>()

  async function admit(req: IncomingMessage, server: OrdersOptions['servers'][number]): Promise<void> {
    const [scheme, token] = (req.headers.authorization ?? '').split(' ')
    if (!token || scheme?.toLowerCase() !== (server.bound ? 'dpop' : 'bearer')) throw new Refused('token missing')
    const { payload } = await jwtVerify(token, jwks, { issuer: options.issuer, audience: server.uri, typ: 'at+jwt', algorithms: ['ES256', 'RS256'] })
    if (!String(payload.scope).split(' ').includes('orders:read')) throw new Refused('scope missing')
    if (server.bound) {
      const proofs = req.headersDistinct.dpop ?? []
      if (proofs.length !== 1) throw new Refused('proof missing')
      const { jkt, mark } = await verifyProof(proofs[0] as string, {
        method: req.method ?? '',
        url: url + server.path,
        now: new Date(Date.now()),
        accessToken: token,
      })
      // RFC 9449 section 7.1: the proof's key is the one that the token is bound to.
      if ((payload.cnf as { jkt?: string } | undefined)?.jkt !== jkt) throw new Refused('proof of another key')
      if (seen.has(mark.id)) throw new Refused('proof replayed')
      seen.add(mark.id)
    }
    const { body } = await call('POST', `${options.issuer}/oauth2/introspect`, {
      headers: {
        'content-type': 'application/x-www-form-urlencoded',
        authorization: `Basic ${Buffer.from(`${server.name}:${server.secret}`).toString('base64')}`,
      },
      body: new URLSearchParams({ token }).toString(),
    })
    if (body?.active !== true) throw new Refused('token is not active any more')
  }

  const api = createServer(async (req, res) => {
    const server = options.servers.find(s => s.path === req.url)
    res.setHeader('Content-Type', 'application/json')
    if (!server || req.method !== 'GET') {
      res.statusCode = 404
      res.end('{}')
      return
    }
    try {
      await admit(req, server)
      res.end(JSON.stringify({ orders: ORDERS }))
    } catch (error) {
      const why = error instanceof Refused ? error.message : error instanceof CurfewError ? (error.facts.reason ?? 'refused') : 'token refused'
      res.statusCode = 401
      res.setHeader('WWW-Authenticate', `${server.bound ? 'DPoP' : 'Bearer'} error="invalid_token", error_description="${why}"`)
      res.end(JSON.stringify({ error: 'invalid_token', why }))
    }
  })
  await new Promise<void>((resolve, reject) => {
    api.once('error', reject)
    api.listen(options.port, '127.0.0.1', resolve)
  })
  return {
    url,
    close: () =>
      new Promise(resolve => {
        api.close(() => resolve())
        api.closeAllConnections()
      }),
  }
}
