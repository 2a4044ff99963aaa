/** Owns the protected APIs of dev and demo: examples/orders-api, once for each audience, as processes that know of Curfew what any resource server knows. */
import { join } from 'node:path'
import { repository } from './find.js'
import { freePort } from './ports.js'
import { type Child, startProcess } from './process.js'
import { call } from './workload.js'

export interface OrdersApi {
  /** Of the orders, for tokens that are bound to a key. */
  readonly url: string
  /** Of the same, for those that are not. */
  readonly bearerUrl: string
  close(): Promise<void>
}

export interface OrdersOptions {
  /** For its logs. */
  readonly dir: string
  /** Curfew. */
  readonly issuer: string
  /** May call `POST /v1/guards`. */
  readonly operatorToken: string
  readonly audience: string
  readonly bearerAudience: string
  readonly signal: AbortSignal
}

export async function startOrdersApi({ dir, issuer, operatorToken, audience, bearerAudience, signal }: OrdersOptions): Promise<OrdersApi> {
  const bound = { name: 'orders', path: '/orders', port: await freePort([8790]), audience, proof: 'required' }
  const bearer = { name: 'orders-bearer', path: '/orders-bearer', port: await freePort([8791]), audience: bearerAudience, proof: 'if-bound' }
  const servers = [bound, bearer]
  const urlOf = ({ port, path }: typeof bound) => `http://127.0.0.1:${port}${path}`

  async function start(server: typeof bound): Promise<Child> {
    const added = await call('POST', `${issuer}/v1/guards`, {
      headers: { authorization: `Bearer ${operatorToken}`, 'content-type': 'application/json' },
      body: JSON.stringify({ name: server.name }),
    })
    if (added.status !== 201) throw new Error(`no guard key for ${server.name}: ${added.status}`)
    const origin = new URL(urlOf(server)).origin
    return startProcess({
      name: `api-${server.name}`,
      command: process.execPath,
      args: [join(repository(), 'dist', 'examples', 'orders-api', 'main.js')],
      dir,
      env: {
        CURFEW_ISSUER: issuer,
        CURFEW_AUDIENCE: server.audience,
        CURFEW_GUARD_KEY: added.body.key,
        CURFEW_PROOF: server.proof,
        PUBLIC_URL: origin,
        PORT: String(server.port),
        ORDERS_PATH: server.path,
      },
      ready: async () => (await call('GET', `${origin}/healthz`)).status === 200,
      signal,
    })
  }

  const started = await Promise.allSettled(servers.map(start))
  const close = async () => void (await Promise.all(started.map(one => (one.status === 'fulfilled' ? one.value.stop() : null))))
  const failed = started.find(one => one.status === 'rejected')
  if (failed) {
    await close()
    throw failed.reason
  }
  return { url: urlOf(bound), bearerUrl: urlOf(bearer), close }
}
