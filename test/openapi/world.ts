/** Owns the world that a stranger's requests meet: a broker over the composition of the tests, and a second door where they fetch what only its friends have. */
import { createHash, randomBytes } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { EDR_SECRET, makeHouse, ORDERS, ORDERS_SECRET, SERVER } from '../house.js'
import { lies } from '../witness.js'

export interface World {
  readonly url: string
  /** What the generator of requests is given. */
  readonly environment: Readonly<Record<string, string>>
  /** By status: how many answers there were. */
  readonly statuses: ReadonlyMap<number, number>
  /** By operation: which statuses were met. */
  readonly met: ReadonlyMap<string, ReadonlySet<number>>
  /** Answers that are not as they are described, and failures of ours. */
  readonly found: readonly string[]
  stop(): Promise<void>
}

const CAPABILITIES = ['demo/orders-ro', 'demo/orders-bearer', 'demo/orders-db']

export async function startWorld(): Promise<World> {
  const house = await makeHouse({
    // Whoever sends twenty thousand requests for two identities is told of a limit and of nothing else.
    more: {
      limits: { source: false, identity: false },
      hooks: [{ name: 'github-org', kind: 'github', issuer: 'github', secret: { env: 'EDR_SECRET' }, owners: ['123456'] }],
    },
  })
  const statuses = new Map<number, number>()
  const met = new Map<string, Set<number>>()
  const found: string[] = []
  const broker = await listening(
    createServer((req, res) => {
      res.on('close', () => {
        statuses.set(res.statusCode, (statuses.get(res.statusCode) ?? 0) + 1)
        if (res.statusCode >= 500) found.push(`${req.method} ${req.url} → ${res.statusCode}`)
        const route = `${req.method} ${(req as unknown as { route?: { path: string } }).route?.path ?? '(none)'}`
        met.set(route, (met.get(route) ?? new Set()).add(res.statusCode))
        // One line each is enough to look at, and a run may find the same thousands of times.
        found.push(...lies.splice(0).filter(lie => found.length < 200 && lie))
      })
      house.http(req, res)
    }),
  )
  const url = addressOf(broker)
  const friend = await friendOf(url, () => house.evidence(), house.now)
  const friends = await listening(
    createServer(async (req, res) => {
      try {
        const told = req.url === '/evidence' ? { evidence: await house.evidence() } : await friend.held()
        res.setHeader('Content-Type', 'application/json')
        res.end(JSON.stringify(told))
      } catch (error) {
        res.statusCode = 503
        res.end(JSON.stringify({ error: String(error) }))
      }
    }),
  )
  const guard = await fetch(`${url}/v1/guards`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${await house.operator('admin')}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ name: 'of-the-run' }),
  })
  // What a worker and the loops would do.
  let busy = false
  const loop = setInterval(async () => {
    if (busy) return
    busy = true
    await house
      .work()
      .then(() => house.sweep())
      .catch(error => void found.push(`a loop failed: ${error}`))
    busy = false
  }, 1_000)

  return {
    url,
    statuses,
    met,
    found,
    environment: {
      CURFEW_SERVER: SERVER,
      CURFEW_FRIENDS: addressOf(friends),
      CURFEW_KEY: JSON.stringify(friend.jwk),
      CURFEW_OPERATOR: await house.operator('admin'),
      CURFEW_GUARD: ((await guard.json()) as { key: string }).key,
      CURFEW_SIGNAL_SECRET: EDR_SECRET,
      CURFEW_RESOURCE_SERVER: `legacy:${ORDERS_SECRET}`,
      CURFEW_RESOURCE: ORDERS,
    },
    async stop() {
      clearInterval(loop)
      for (const server of [broker, friends]) {
        server.closeAllConnections()
        server.close()
      }
      await house.close()
    },
  }
}

/** Holds a task and a bearer token under it as anybody else does, by its own proofs; opens another when they have ended. */
async function friendOf(url: string, evidence: () => Promise<string>, now: () => number) {
  const { publicKey, privateKey } = await generateKeyPair('ES256', { extractable: true })
  const jwk = await exportJWK(publicKey)
  const proof = (method: string, path: string, token?: string) =>
    new SignJWT({
      jti: randomBytes(12).toString('hex'),
      htm: method,
      htu: SERVER + path,
      iat: now(),
      ...(token === undefined ? {} : { ath: createHash('sha256').update(token).digest('base64url') }),
    })
      .setProtectedHeader({ alg: 'ES256', typ: 'dpop+jwt', jwk })
      .sign(privateKey)
  async function ask(path: string, body: unknown, token?: string) {
    const answer = await fetch(url + path, {
      method: 'POST',
      headers: {
        'Content-Type': 'application/json',
        DPoP: await proof('POST', path, token),
        ...(token === undefined ? {} : { Authorization: `DPoP ${token}` }),
      },
      body: JSON.stringify(body),
    })
    const told = (await answer.json()) as { task: { id: string }; token: string; secret: { token: string } }
    if (answer.status !== 201) throw new Error(`${path}: ${answer.status} ${JSON.stringify(told)}`)
    return told
  }
  return {
    jwk: await exportJWK(privateKey),
    /** A new task at every call: what was held before may have been completed, cut off or revoked by the requests in between. */
    async held() {
      const { task, token } = await ask('/v1/tasks', { subject_token: await evidence(), purpose: 'requests of a stranger', capabilities: CAPABILITIES })
      const { secret } = await ask(`/v1/tasks/${task.id}/credentials`, { capability: 'demo/orders-bearer', ttl_seconds: 300 }, token)
      return { task: task.id, token, bearer: secret.token }
    },
  }
}

const listening = (server: Server) => new Promise<Server>(resolve => server.listen(0, '127.0.0.1', () => resolve(server)))
const addressOf = (server: Server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`
