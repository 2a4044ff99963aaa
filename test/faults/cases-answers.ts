/** Owns answers of Vault that say something else than what was done: F29 and F32. */
import { setTimeout as sleep } from 'node:timers/promises'
import { issued } from './cases-revoke.js'
import { things } from './cases-vault.js'
import { clientsOf } from './clients.js'
import type { Entry, Held } from './ledger.js'
import { rowOf, when } from './queues.js'
import type { Case, Report } from './report.js'
import { askVault } from './upstream.js'
import { type Broker, kill, TIMERS, type World } from './world.js'

const CREATE = /^(POST|PUT) \/v1\/auth\/token\/create\//
const READ = /^GET \/v1\/database\/creds\//
const REVOKE = /^(POST|PUT) \/v1\/sys\/leases\/revoke/
const REVOKE_ACCESSOR = /^(POST|PUT) \/v1\/auth\/token\/revoke-accessor/

const http = (status: string, body: string, { type = 'application/json', length = body.length } = {}) =>
  `HTTP/1.1 ${status}\r\nContent-Type: ${type}\r\n${status.startsWith('204') ? '' : `Content-Length: ${length}\r\n`}Connection: close\r\n\r\n${body}`
const extended = (body: string, more: object) => http('200 OK', JSON.stringify({ ...(body === '' ? {} : JSON.parse(body)), ...more }))

interface Form {
  readonly name: string
  /** Whether Vault did it all the same. */
  readonly reaches: boolean
  readonly answer: (body: string) => string
  /** How an issue is answered that met it; null: as if nothing were wrong. */
  readonly reason: string | null
  /** Whether a revocation that met it is done with it, and believes only its probe. */
  readonly isRevoked?: boolean
}

const FORMS: readonly Form[] = [
  {
    name: '429',
    reaches: false,
    answer: () => http('429 Too Many Requests', '{"errors":["request path \\"x\\": rate limit quota exceeded"]}'),
    reason: 'vault_down',
  },
  {
    name: 'lease quota',
    reaches: false,
    answer: () => http('429 Too Many Requests', '{"errors":["1 error occurred:\\n\\t* request path \\"x\\": lease count quota exceeded\\n\\n"]}'),
    reason: 'vault_down',
  },
  { name: '500', reaches: true, answer: () => http('500 Internal Server Error', '{"errors":["internal error"]}'), reason: 'vault_ambiguous' },
  {
    name: '502 HTML',
    reaches: true,
    answer: () => http('502 Bad Gateway', '<html><h1>502 Bad Gateway</h1></html>', { type: 'text/html' }),
    reason: 'vault_ambiguous',
  },
  { name: '200 empty', reaches: true, answer: () => http('200 OK', ''), reason: 'vault_ambiguous', isRevoked: true },
  { name: 'half a JSON', reaches: true, answer: body => http('200 OK', halfOf(body)), reason: 'vault_ambiguous' },
  { name: 'cut off', reaches: true, answer: body => http('200 OK', halfOf(body), { length: halfOf(body).length + 40 }), reason: 'vault_ambiguous' },
  { name: 'auth and error', reaches: true, answer: body => extended(body === '' ? '{"auth":{}}' : body, { errors: ['failed'] }), reason: 'vault_ambiguous' },
  { name: '200 with warnings', reaches: true, answer: body => extended(body, { warnings: ['be warned'] }), reason: null, isRevoked: true },
]

const halfOf = (body: string) => (body === '' ? '{"request_id":"' : body.slice(0, Math.floor(body.length / 2)))

/** One task and one request a form: what its caller heard, what stands in its row, and that nothing outlives it. */
async function issuing(world: World, c: Case, broker: Broker, line: RegExp): Promise<string> {
  const clients = clientsOf(world, broker, c.ledger)
  const heard: { form: Form; held: Held; entry: Entry }[] = []
  for (const form of FORMS) {
    const held = await clients.opened()
    const forged = world.proxy.forge(line, form)
    const entry = await clients.issue(held, 'db', { ttlSeconds: 60 })
    c.expect(forged.left() === 0, `${form.name}: nobody asked`)
    forged.release()
    heard.push({ form, held, entry })
  }
  for (const { form, held, entry } of heard) {
    const isDelivered = entry.subject !== null
    c.expect(isDelivered === (form.reason === null), `${form.name}: ${isDelivered ? 'DELIVERED' : 'nothing was delivered'} (${entry.status} ${entry.problem})`)
    if (form.reason !== null) c.expect(entry.problem === `engine_failed ${form.reason}`, `${form.name} was told as ${entry.status} ${entry.problem}`)
    const row = await rowOf(world, held.task)
    c.expect(isDelivered ? row.state === 'active' : row.state !== 'active' && row.state !== 'pending', `${form.name}: its row is ${row.state}`)
    await clients.complete(held)
  }
  // A token of 4a that no row knows the accessor of ends by its own switch.
  const since = performance.now()
  const tasks = heard.map(h => h.held.task)
  let left = await things(world, tasks)
  for (; left.length > 0 && performance.now() - since < TIMERS.issuanceTokenSeconds * 1_000 + 5_000; left = await things(world, tasks)) await sleep(200)
  for (const thing of left) c.orphan(`${thing} is left`)
  await c.judge()
  const told = heard.map(({ form, entry }) => `${form.name} ${entry.status}${form.reason ? ` ${form.reason.slice(6)}` : ''}`)
  return `${told.join(', ')}; nothing left ${((performance.now() - since) / 1000).toFixed(1)} s later`
}

async function revoking(world: World, c: Case, broker: Broker): Promise<string> {
  const clients = clientsOf(world, broker, c.ledger)
  const all: Held[] = []
  for (const _ of FORMS) all.push(await issued(clients))
  const forged = FORMS.map(form => world.proxy.forge(REVOKE, form))
  for (const held of all) await clients.complete(held)
  await when('every form was met', () => forged.every(f => f.left() === 0))
  for (const f of forged) f.release()
  const { slowestMs } = await c.judge()
  const failures = await world.rows<{ n: number }>(
    'store',
    `select count(*)::int as n from curfew.audit where kind = 'credential.destroy_failed' and subject = any($1::text[])`,
    [all.map(h => h.credential?.id)],
  )
  const expected = FORMS.filter(f => !f.isRevoked).length
  c.expect(failures[0]?.n === expected, `${failures[0]?.n} attempts failed instead of ${expected}`)
  for (const held of all) {
    const row = await rowOf(world, held.task)
    c.expect(row.state === 'revoked' && row.successes === 1, `${row.id} is ${row.state} with ${row.successes} successes`)
  }
  return `${FORMS.length} rows, ${failures[0]?.n} attempts failed and tried again, all revoked within ${slowestMs} ms, one success each`
}

/** Longer than two attempts, shorter than the three after which a person is called. */
const SWALLOWED_MS = 5_000

async function swallowed(world: World, report: Report, broker: Broker): Promise<void> {
  await report.case('F32 every revocation is answered 204 and not done', async c => {
    const clients = clientsOf(world, broker, c.ledger)
    const held = await issued(clients)
    const [row] = await world.rows<{ lease: string }>('store', `select handle->>'leaseId' as lease from curfew.credentials where task = $1`, [held.task])
    const there = async () => (await askVault(world, 'PUT', 'sys/leases/lookup', [400], { lease_id: row?.lease })) !== null
    const nothing = { reaches: false, answer: () => http('204 No Content', ''), times: Number.POSITIVE_INFINITY }
    const forged = [world.proxy.forge(REVOKE, nothing), world.proxy.forge(REVOKE_ACCESSOR, nothing)]
    const states = new Set<string>()
    let attempts = 0
    await clients.complete(held)
    for (const since = performance.now(); performance.now() - since < SWALLOWED_MS; await sleep(100)) {
      const seen = await rowOf(world, held.task)
      states.add(seen.state)
      attempts = seen.attempts
      if (!(await there())) c.wrong('the lease is gone although nobody revoked it')
    }
    c.expect([...states].join() === 'revoking', `it was ${[...states]} while its lease was there`)
    c.expect(attempts >= 2, `only ${attempts} attempts`)
    const released = Date.now()
    for (const f of forged) f.release()
    await when('it is revoked', async () => (await rowOf(world, held.task)).state === 'revoked', 60_000)
    c.expect(!(await there()), 'it is revoked and its lease is there')
    await c.judge()
    const end = await rowOf(world, held.task)
    c.expect(end.successes === 1, `${end.successes} rows of success`)
    return `${attempts} attempts answered 204 in ${SWALLOWED_MS / 1000} s, lease there, row revoking; revoked ${(((end.revokedAt ?? Number.NaN) - released) / 1000).toFixed(1)} s after revocations were let through`
  })
}

/** Alone at the proxy: another case's request would be answered in the place of its own. */
export async function answerCases(world: World, report: Report): Promise<void> {
  const broker = await world.broker({ queue: 'memory' })
  try {
    await report.case('F29 nine wrong answers to the creation of a token', c => issuing(world, c, broker, CREATE))
    await report.case('F29 nine wrong answers to the read of a secret', c => issuing(world, c, broker, READ))
    await report.case('F29 nine wrong answers to a revocation', c => revoking(world, c, broker))
    await swallowed(world, report, broker)
    await report.case('F29, F32 twin: the same acts, Vault answers itself', async c => {
      const clients = clientsOf(world, broker, c.ledger)
      const held = await issued(clients)
      c.expect((await clients.complete(held)).subject !== null, 'it could not be completed')
      const { slowestMs } = await c.judge()
      return `revoked after ${slowestMs} ms`
    })
  } finally {
    await kill(broker.child)
  }
}
