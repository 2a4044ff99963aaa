/** Owns a Vault that can be told to misbehave: tokens, accessors, leases, sync and queued revocation, reads in flight, seal, and every bad answer. */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/**
 * How the next answer to a path goes wrong. `{ status }` and `html`, `redirect`: nothing was done. `lost`, `cut`, `late`, `empty`, `both`: it was
 * done, and the answer never comes, stops half-way, comes after the caller's deadline, is empty, or holds an error beside the secret.
 * `lie`: nothing was done, and the answer says 204.
 */
export type Misbehaviour =
  | { readonly status: number; readonly body?: string }
  | 'html'
  | 'redirect'
  | 'lost'
  | 'cut'
  | 'late'
  | 'empty'
  | 'both'
  | 'lie'
  | 'huge'

interface Token {
  readonly id: string
  readonly accessor: string
  readonly policies: readonly string[]
  readonly meta: Readonly<Record<string, string>> | null
  readonly displayName: string
  readonly bornAt: number
  until: number
}
interface Lease {
  readonly id: string
  readonly token: string
  readonly user: string
  readonly bornAt: number
  until: number
  renewable: boolean
}

export interface FakeVault {
  readonly address: string
  readonly root: string
  /** The database's users, with password and oid. */
  readonly users: ReadonlyMap<string, { readonly password: string; readonly oid: number }>
  readonly leases: ReadonlyMap<string, Lease>
  readonly tokens: ReadonlyMap<string, Token>
  /** Method, raw path and token of everything that arrived. */
  readonly seen: readonly { readonly method: string; readonly path: string; readonly token: string | undefined; readonly namespace: string | undefined }[]
  /** Where `redirect` points. */
  redirectTo: string
  misbehave(path: RegExp, how: Misbehaviour, times?: number): void
  behave(): void
  seal(): void
  unseal(): void
  /** While it is down nothing is dropped there, and a sync revocation is told so in words that must not travel. */
  target(up: boolean): void
  /** Reads of secrets wait; what they register when let go does not ask whether their token still lives. */
  holdReads(): () => void
  advance(seconds: number): void
  /** A token with these policies and no end, as an administrator would make it. */
  tokenWith(...policies: string[]): string
  close(): Promise<void>
}

const QUEUE_MS = 30
const APPROLE_SECONDS = 3_600
/** `token_explicit_max_ttl` of the token role in config/vault/setup.sh. */
const ROLE_MAX_SECONDS = 43_230
const answerOf = (status: number, body?: unknown) => ({ status, body })
type Answer = ReturnType<typeof answerOf>
const no = (status: number, ...errors: string[]): Answer => answerOf(status, { errors })

/** `path "x" { capabilities = ["read"] }`, as our shipped policies are written. */
export function parsePolicy(hcl: string): { path: RegExp; capabilities: readonly string[] }[] {
  const blocks = hcl.replace(/^\s*#.*$/gm, '').matchAll(/path\s+"([^"]+)"\s*\{\s*capabilities\s*=\s*\[([^\]]*)\]\s*\}/g)
  return [...blocks].map(([, path = '', list = '']) => ({
    path: new RegExp(`^${path.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replace(/\*$/, '.*')}$`),
    capabilities: [...list.matchAll(/"([^"]+)"/g)].map(m => m[1] as string),
  }))
}

const shipped = (name: string) => parsePolicy(readFileSync(new URL(`../config/vault/${name}.hcl`, import.meta.url), 'utf8'))

export async function fakeVault(options: { roleTtlSeconds?: number } = {}): Promise<FakeVault> {
  const policies = new Map([
    ['curfew-issuer', shipped('issuer')],
    ['curfew-revoker', shipped('revoker')],
    ['curfew-reconciler', shipped('reconciler')],
    ['curfew-cap-orders-ro', parsePolicy('path "database/creds/orders-ro" { capabilities = ["read"] }')],
    ['root', parsePolicy('path "*" { capabilities = ["create", "read", "update", "list", "sudo"] }')],
  ])
  const tokens = new Map<string, Token>()
  const leases = new Map<string, Lease>()
  const users = new Map<string, { password: string; oid: number }>()
  const bad: { path: RegExp; how: Misbehaviour; left: number }[] = []
  const seen: { method: string; path: string; token: string | undefined; namespace: string | undefined }[] = []
  const timers = new Set<NodeJS.Timeout>()
  let ahead = 0
  let sealed = false
  let targetUp = true
  let gate: Promise<void> | null = null
  let oids = 16_384

  const now = () => performance.now() / 1000 + ahead
  const left = (until: number) => Math.max(0, Math.round(until - now()))
  const stamp = (at: number) => new Date(Date.now() + (at - now()) * 1000)
  const random = () => randomBytes(12).toString('hex')

  function makeToken(names: readonly string[], ttl: number, max: number, meta: Token['meta'], displayName: string): Token {
    const made = {
      id: `hvs.${random()}`,
      accessor: random(),
      policies: names,
      meta,
      displayName,
      bornAt: now(),
      until: now() + Math.min(ttl, max),
    }
    tokens.set(made.id, made)
    return made
  }

  /** False while the target does not answer: the lease stays, spent. */
  function endLease(lease: Lease): boolean {
    if (!targetUp) {
      lease.until = now()
      lease.renewable = false
      return false
    }
    users.delete(lease.user)
    leases.delete(lease.id)
    return true
  }
  function endToken(token: Token): void {
    tokens.delete(token.id)
    const queued = setTimeout(() => {
      timers.delete(queued)
      for (const lease of leases.values()) if (lease.token === token.id) endLease(lease)
    }, QUEUE_MS)
    timers.add(queued)
  }
  function lapse(): void {
    for (const token of tokens.values()) if (token.until <= now()) endToken(token)
    for (const lease of leases.values()) if (lease.until <= now() && lease.renewable) endLease(lease)
  }
  const byAccessor = (accessor: unknown) => [...tokens.values()].find(t => t.accessor === accessor)

  function allowed(token: Token, path: string, capability: string, sudo: boolean): boolean {
    const rules = token.policies.flatMap(name => policies.get(name) ?? []).filter(rule => rule.path.test(path))
    return rules.some(r => r.capabilities.includes(capability)) && (!sudo || rules.some(r => r.capabilities.includes('sudo')))
  }

  const describe = (t: Token) => ({
    accessor: t.accessor,
    creation_time: Math.floor(stamp(t.bornAt).getTime() / 1000),
    display_name: t.displayName,
    meta: t.meta,
  })
  const authOf = (t: Token) => ({
    auth: {
      client_token: t.id,
      accessor: t.accessor,
      token_policies: t.policies,
      policies: t.policies,
      metadata: t.meta,
      lease_duration: left(t.until),
      renewable: true,
      orphan: true,
    },
    warnings: null,
  })

  function createToken(body: Record<string, unknown>): Answer {
    const asked = body.policies as string[]
    if (!asked?.length || asked.some(p => !p.startsWith('curfew-cap-'))) return no(400, 'token policies are not allowed by the role')
    const seconds = (field: unknown) => Number.parseInt(String(field), 10)
    const name = `token-${String(body.display_name).replaceAll('_', '-')}`
    return answerOf(200, authOf(makeToken(asked, seconds(body.ttl), seconds(body.explicit_max_ttl), body.meta as Token['meta'], name)))
  }

  async function readSecret(token: Token, role: string): Promise<Answer> {
    if (gate) await gate
    if (!targetUp) return no(500, 'failed to connect to host=10.9.8.7 user=vault_admin database=orders')
    const user = `curfew_${token.displayName.replace('token-', '').toLowerCase()}`.slice(0, 63)
    const password = random()
    users.set(user, { password, oid: oids++ })
    const seconds = options.roleTtlSeconds ?? 900
    const lease = { id: `database/creds/${role}/${random()}`, token: token.id, user, bornAt: now(), until: now() + seconds, renewable: true }
    leases.set(lease.id, lease)
    return answerOf(200, { lease_id: lease.id, lease_duration: seconds, renewable: true, data: { username: user, password } })
  }

  /** What an unsealed, willing Vault does. Null: no such path. */
  async function serve(token: Token, method: string, path: string, listing: boolean, body: Record<string, unknown>): Promise<Answer | null> {
    const [, creds] = /^database\/creds\/([\w-]+)$/.exec(path) ?? []
    if (method === 'GET' && creds) return creds === 'orders-ro' ? readSecret(token, creds) : no(400, `unknown role: ${creds}`)
    if (listing && path === 'auth/token/accessors') return answerOf(200, { data: { keys: [...tokens.values()].map(t => t.accessor) } })
    if (listing && path.startsWith('sys/leases/lookup/')) {
      const prefix = `${path.slice('sys/leases/lookup/'.length).replace(/\/$/, '')}/`
      const keys = [...leases.keys()].filter(id => id.startsWith(prefix)).map(id => id.slice(prefix.length))
      return keys.length > 0 ? answerOf(200, { data: { keys } }) : no(404)
    }
    if (method !== 'POST' && method !== 'PUT') return null
    const { accessor, lease_id: leaseId } = body
    switch (path) {
      case 'auth/token/create':
      case 'auth/token/create/curfew':
        return createToken(body)
      case 'auth/token/renew-accessor': {
        const found = byAccessor(accessor)
        if (!found) return no(400, '1 error occurred:\n\t* invalid accessor\n\n')
        // As seen on 1.21.4: under a token role it is the role's maximum that holds here, not the token's own.
        found.until = Math.min(now() + Number.parseInt(String(body.increment), 10), found.bornAt + ROLE_MAX_SECONDS)
        return answerOf(200, authOf(found))
      }
      case 'auth/token/revoke-accessor': {
        const found = byAccessor(accessor)
        if (!found) return answerOf(200, { data: null, warnings: ['No token found with this accessor'] })
        endToken(found)
        return answerOf(204)
      }
      case 'auth/token/lookup-accessor': {
        const found = byAccessor(accessor)
        return found ? answerOf(200, { data: { ...describe(found), ttl: left(found.until) } }) : no(400, '1 error occurred:\n\t* invalid accessor\n\n')
      }
      case 'sys/leases/lookup': {
        const found = leases.get(String(leaseId))
        if (!found) return no(400, 'invalid lease')
        return answerOf(200, { data: { id: found.id, issue_time: stamp(found.bornAt).toISOString(), ttl: left(found.until), renewable: found.renewable } })
      }
      case 'sys/leases/revoke': {
        const found = leases.get(String(leaseId))
        if (!found) return answerOf(204)
        if (body.sync !== true) return answerOf(202)
        return endLease(found) ? answerOf(204) : no(400, `failed to revoke entry: failed to connect to host=10.9.8.7 user=vault_admin: ${found.id}`)
      }
      default:
        return null
    }
  }

  async function handle(request: IncomingMessage, raw: Buffer): Promise<Answer> {
    const [path = '', query = ''] = (request.url ?? '').replace(/^\/v1\//, '').split('?')
    lapse()
    if (sealed) return no(503, 'Vault is sealed')
    const body = raw.length > 0 ? (JSON.parse(raw.toString()) as Record<string, unknown>) : {}
    const [, login] = /^curfew-(issuer|revoker|reconciler)$/.exec(String(body.role_id)) ?? []
    if (path === 'auth/approle/login')
      return login && body.secret_id === `secret-of-${login}`
        ? answerOf(200, authOf(makeToken([`curfew-${login}`], APPROLE_SECONDS, 86_400, null, 'approle')))
        : no(400, 'invalid role or secret ID')
    const token = tokens.get(String(request.headers['x-vault-token']))
    if (!token) return no(403, '2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n')
    const listing = request.method === 'LIST' || query === 'list=1'
    const capability = listing ? 'list' : request.method === 'GET' ? 'read' : 'update'
    if (!allowed(token, path, capability, listing)) return no(403, '1 error occurred:\n\t* permission denied\n\n')
    return (await serve(token, String(request.method), path, listing, body)) ?? no(404, `no handler for route "${path}"`)
  }

  function send(response: ServerResponse, { status, body }: Answer): void {
    response.writeHead(status, { 'content-type': 'application/json' })
    response.end(body === undefined ? '' : JSON.stringify(body))
  }

  /** Things that Vault, or what stands before it, has been seen to do. */
  async function misbehaved(how: Misbehaviour, request: IncomingMessage, response: ServerResponse, raw: Buffer): Promise<void> {
    if (typeof how === 'object') {
      response.writeHead(how.status, { 'content-type': 'application/json' })
      return void response.end(how.body ?? JSON.stringify({ errors: ['told to, at host=10.9.8.7'] }))
    }
    if (how === 'html') return void response.writeHead(200, { 'content-type': 'text/html' }).end('<html>a proxy speaks</html>')
    if (how === 'redirect') return void response.writeHead(307, { location: `${self.redirectTo}${request.url}` }).end()
    if (how === 'lie') return void response.writeHead(204).end()
    if (how === 'huge') {
      response.writeHead(200, { 'content-type': 'application/json' })
      return void response.end(`{"data":"${'x'.repeat(2 * 1_048_576)}"}`)
    }
    const { status, body } = await handle(request, raw)
    switch (how) {
      case 'lost':
        return void response.destroy()
      case 'late':
        await new Promise<void>(resolve => timers.add(setTimeout(resolve, 12_000)))
        return send(response, { status, body })
      case 'empty':
        return void response.writeHead(200).end()
      case 'both':
        return send(response, answerOf(status, { ...(body as object), errors: ['and something went wrong'] }))
      case 'cut': {
        const text = JSON.stringify(body ?? {})
        response.writeHead(status, { 'content-type': 'application/json', 'content-length': text.length })
        response.write(text.slice(0, text.length / 2))
        return void setTimeout(() => response.destroy(), 10)
      }
      default:
        how satisfies never
    }
  }

  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const header = (name: string) => request.headers[name] as string | undefined
    seen.push({ method: String(request.method), path: String(request.url), token: header('x-vault-token'), namespace: header('x-vault-namespace') })
    const set = bad.find(b => b.left > 0 && b.path.test(String(request.url)))
    if (set) set.left -= 1
    const raw = Buffer.concat(chunks)
    if (set) await misbehaved(set.how, request, response, raw)
    else send(response, await handle(request, raw))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))

  const tick = setInterval(lapse, 50)

  const root = makeToken(['root'], Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, null, 'root')
  const self: FakeVault = {
    address: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    root: root.id,
    users,
    leases,
    tokens,
    seen,
    redirectTo: 'http://127.0.0.1:9',
    misbehave: (path, how, times = 1) => void bad.push({ path, how, left: times }),
    behave: () => void bad.splice(0),
    seal: () => {
      sealed = true
    },
    unseal: () => {
      sealed = false
    },
    target: up => {
      targetUp = up
    },
    holdReads() {
      let open = () => {}
      gate = new Promise<void>(resolve => {
        open = resolve
      })
      return () => {
        gate = null
        open()
      }
    },
    advance: seconds => {
      ahead += seconds
    },
    tokenWith: (...names) => makeToken(names, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, null, 'given').id,
    async close() {
      clearInterval(tick)
      for (const timer of timers) clearTimeout(timer)
      server.closeAllConnections()
      await new Promise(resolve => server.close(resolve))
    },
  }
  return self
}
