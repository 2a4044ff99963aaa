/** Owns the process: what the environment says, the guard, the listener, and an orderly end. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createGuard, type ProofRule } from 'curfew/guard'
import { ordersApi } from './app.js'
import { openOrders } from './orders.js'

const { env } = process
const path = env.ORDERS_PATH || '/orders'
const say = (facts: object, message: string) => void process.stderr.write(`${message} ${JSON.stringify(facts)}\n`)
const canAsk = env.CURFEW_CLIENT && env.CURFEW_CLIENT_SECRET

const guard = createGuard({
  issuer: env.CURFEW_ISSUER ?? '',
  audience: env.CURFEW_AUDIENCE ?? '',
  guardKey: env.CURFEW_GUARD_KEY || undefined,
  proof: (env.CURFEW_PROOF || 'required') as ProofRule,
  publicUrl: env.PUBLIC_URL || undefined,
  // Replicas by their own addresses, where there is no one address for all.
  feedUrls: env.CURFEW_FEED_URLS ? env.CURFEW_FEED_URLS.split(' ') : undefined,
  // Without a guard key every request is asked about; with both, only when the feed is silent for too long.
  ...(canAsk ? { introspection: { client: env.CURFEW_CLIENT as string, secret: env.CURFEW_CLIENT_SECRET as string } } : {}),
  ...(canAsk && env.CURFEW_GUARD_KEY ? { revocation: { whenStale: 'introspect' as const } } : {}),
  log: { warn: say, error: say },
})
const orders = openOrders(env)
const server = createServer(ordersApi(guard, orders, path))
server.listen(Number(env.PORT || 8790), '127.0.0.1', () => {
  process.stdout.write(`listening on http://127.0.0.1:${(server.address() as AddressInfo).port}${path} for ${env.CURFEW_AUDIENCE}\n`)
})

for (const name of ['SIGTERM', 'SIGINT'] as const) {
  process.once(name, () => {
    guard.close()
    server.close(() => void orders.close())
    server.closeAllConnections()
  })
}
