/** Owns the demo's story: each step does the thing, looks whether it happened, and only then says so. */
import { createHash, createHmac } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { createLocalJWKSet, jwtVerify } from 'jose'
import pg from 'pg'
import { type Answer, call, createWorkload } from './workload.js'
import type { World } from './world.js'

export interface Step {
  readonly title: string
  /** What was seen, in a few words; throws when it is not what it should be. */
  act(): Promise<string>
}

class Wrong extends Error {}

function expect(so: boolean, what: string, seen?: unknown): void {
  if (!so) throw new Wrong(seen === undefined ? what : `${what}, but saw ${JSON.stringify(seen)}`)
}

/** The bound on a revocation without Redis: one sweep. Milliseconds. */
const SWEEP_BOUND_MS = 5_000
const CONFIRM_MS = 10_000

export async function storyOf(world: World): Promise<readonly Step[]> {
  const { server, api } = world
  const ci = await createWorkload(server)
  const agent = await createWorkload(server)
  const evidence = (claims = {}) => world.issuer.githubToken(server, claims)
  const operator = { authorization: `Bearer ${world.operatorToken}`, 'content-type': 'application/json' }
  const orders = `${api.url}/orders`

  /** A task with one credential, both checked. */
  async function granted(capability: string, more = {}) {
    const opened = await ci.open(await evidence(), [capability], { heartbeat_seconds: 60 })
    expect(opened.status === 201, 'the task opens', opened)
    const held = { task: opened.body.task.id as string, token: opened.body.token as string }
    const made = await ci.credential(held, capability, more)
    expect(made.status === 201, 'a credential is issued', made)
    return {
      held,
      id: made.body.credential.id as string,
      secret: made.body.secret as Record<string, string>,
      decision: made.body.credential.decision as string,
    }
  }
  const look = async (id: string) => (await call('GET', `${server}/v1/credentials/${id}`, { headers: operator })).body.credential
  async function confirmed(id: string, since: number): Promise<number> {
    for (;;) {
      const seen = await look(id)
      if (seen.state === 'revoked') {
        expect(seen.probe?.outcome === 'dead', 'the probe found it dead', seen)
        return Math.round(performance.now() - since)
      }
      expect(performance.now() - since < CONFIRM_MS, 'it is confirmed dead in time', seen)
      await sleep(20)
    }
  }
  async function refused(token: string, since: number, boundMs: number): Promise<number> {
    for (;;) {
      const answer = await ci.use(orders, token)
      if (answer.status === 401) return Math.round(performance.now() - since)
      expect(performance.now() - since < boundMs, 'the API refuses it in time', answer)
      await sleep(10)
    }
  }

  let job: Awaited<ReturnType<typeof granted>>
  // Begun now, so that its time runs while the others are told.
  const agentsToken = (async () => {
    const opened = await agent.open(await world.assertion(), ['demo/orders-ro'])
    expect(opened.status === 201, "the agent's task opens", opened)
    const made = await agent.credential({ task: opened.body.task.id, token: opened.body.token }, 'demo/orders-ro', { ttl_seconds: 5 })
    expect(made.status === 201, 'the agent is issued a credential', made)
    const token = made.body.secret.token as string
    const first = await agent.use(orders, token)
    expect(first.status === 200, 'the API accepts the agent', first)
    return { token, endsAt: performance.now() + 5_000 }
  })()
  agentsToken.catch(() => {})

  return [
    {
      title: 'a CI job asks for demo/orders-ro',
      async act() {
        job = await granted('demo/orders-ro')
        const { body } = await call('GET', `${server}/v1/decisions/${job.decision}`, { headers: operator })
        expect(body.decision.allowed === true, 'the decision is recorded', body)
        return `allowed by ${body.decision.policies.join(', ')}`
      },
    },
    {
      title: 'the API accepts it',
      async act() {
        const answer = await ci.use(orders, job.secret.token as string)
        expect(answer.status === 200 && answer.body.orders.length === 2, 'the orders are read', answer)
        return '200, 2 orders'
      },
    },
    {
      title: 'the job ends',
      async act() {
        const since = performance.now()
        const done = await ci.complete(job.held)
        const told = Math.round(performance.now() - since)
        expect(done.status === 200 && done.body.task.state === 'completed', 'the task completes', done)
        return `refused ${told} ms, confirmed ${await confirmed(job.id, since)} ms`
      },
    },
    {
      title: 'the API refuses it',
      async act() {
        const answer = await ci.use(orders, job.secret.token as string)
        expect(answer.status === 401, 'the API refuses it', answer)
        return `401 ${answer.body.why}`
      },
    },
    {
      title: 'a pull request asks',
      async act() {
        const answer = await ci.open(await evidence({ ref: 'refs/pull/88/merge' }), ['demo/orders-ro'])
        expect(answer.status === 403 && answer.body.failed?.[0]?.claim === 'ref', 'it is denied for its ref', answer)
        const { id, held, of } = answer.body.nearest_rule
        return `denied: ${answer.body.failed[0].claim} differs (${id}, ${held} of ${of} hold)`
      },
    },
    {
      title: 'an agent with a registered key works',
      async act() {
        const { token, endsAt } = await agentsToken
        await sleep(Math.max(0, endsAt - performance.now() + 1_000))
        const answer = await agent.use(orders, token)
        expect(answer.status === 401, 'its time is up', answer)
        return '200, then its 5 s are up: 401'
      },
    },
    {
      title: 'an agent hands a smaller task on',
      async act() {
        const child = await createWorkload(server)
        const opened = await agent.open(await world.assertion(), ['demo/orders-ro'])
        const parent = { task: opened.body.task.id as string, token: opened.body.token as string }
        const handed = await agent.as(parent, 'POST', `/v1/tasks/${parent.task}/grants`, { capabilities: ['demo/orders-ro'], to: { jkt: child.jkt } })
        expect(handed.status === 201, 'the grant is made', handed)
        const below = await child.open(null, ['demo/orders-ro'], { parent_grant: handed.body.grant })
        expect(below.status === 201 && below.body.task.parent === parent.task, 'the child opens below its parent', below)
        const made = await child.credential({ task: below.body.task.id, token: below.body.token }, 'demo/orders-ro')
        const token = made.body.secret?.token as string
        expect((await child.use(orders, token)).status === 200, 'the API accepts the child', made)
        await agent.complete(parent)
        const answer = await child.use(orders, token)
        expect(answer.status === 401, 'the child is refused with its parent', answer)
        return 'the child reads, its parent ends: child refused'
      },
    },
    {
      title: 'a leaked token is pasted',
      async act() {
        const { id, secret } = await granted('demo/orders-ro')
        const digest = createHash('sha256')
          .update(secret.token as string)
          .digest('base64url')
        const found = await call('POST', `${server}/v1/credentials:find`, { headers: operator, body: JSON.stringify({ digest }) })
        expect(found.body.credential?.id === id, 'it is found by its digest', found)
        const since = performance.now()
        const acted = await call('POST', `${server}/v1/revocations`, {
          headers: operator,
          body: JSON.stringify({ selector: { credential: id }, reason: 'INC-205' }),
        })
        await refused(secret.token as string, since, 1_000)
        await confirmed(id, since)
        const shown = await call('GET', `${server}/v1/receipts/${acted.body.receipt}`, { headers: operator })
        const keys = await call('GET', `${server}/v1/receipt-keys`)
        const { payload } = await jwtVerify(shown.body.receipt, createLocalJWKSet(keys.body), { typ: 'curfew-receipt+jwt', algorithms: ['ES256'] })
        expect(payload.final === true && payload.sub === acted.body.revocation.id, 'the receipt says that nothing is left', payload)
        return `found, revoked, receipt ${(acted.body.receipt as string).slice(0, 12)} verified`
      },
    },
    {
      title: 'a responder revokes',
      async act() {
        const { id, secret } = await granted('demo/orders-ro')
        expect((await ci.use(orders, secret.token as string)).status === 200, 'it works before')
        const since = performance.now()
        const answer = await call('POST', `${server}/v1/revocations`, {
          headers: operator,
          body: JSON.stringify({ selector: { credential: id }, message: 'INC-204' }),
        })
        expect(answer.status === 202, 'the revocation is accepted', answer)
        return `refused ${await refused(secret.token as string, since, 1_000)} ms, confirmed ${await confirmed(id, since)} ms`
      },
    },
    {
      title: 'a signed risk signal arrives',
      async act() {
        const other = { repository_id: '456789' }
        const [one, two] = [await granted('demo/orders-ro'), await granted('demo/orders-bearer')]
        const since = performance.now()
        const answer = await sendSignal(world, { identity: `github:repository_id=${other.repository_id}` })
        expect(answer.status === 202 && answer.body.signal.act?.kind === 'revoke', 'the signal is acted on', answer)
        const first = await refused(one.secret.token as string, since, 1_000)
        const bearer = await ci.use(`${api.url}/orders-bearer`, two.secret.token as string, 'Bearer')
        expect(bearer.status === 401, 'the second is refused too', bearer)
        return `2 refused in ${first} ms`
      },
    },
    {
      title: 'a database user is made, used and gone',
      async act() {
        // The signal cut off what was attested before it: fresh evidence must be younger than the cut-off.
        await sleep(1_100)
        const { held, id, secret } = await granted('demo/orders-db')
        expect(secret.PGUSER?.startsWith('curfew_crd-') === true, 'the user is named after the credential', Object.keys(secret))
        const session = world.realDatabase ? await openSession(secret) : null
        const since = performance.now()
        await ci.complete(held)
        const gone = await confirmed(id, since)
        if (!session) return `in-memory engine: confirmed gone ${gone} ms`
        await session.cut
        return `${session.rows} rows read; session cut, role gone ${gone} ms`
      },
    },
    ...(world.redis
      ? [
          {
            title: 'Redis is stopped, a task ends',
            async act() {
              const { held, id, secret } = await granted('demo/orders-ro')
              await world.redis?.stop()
              const since = performance.now()
              await ci.complete(held)
              const told = await refused(secret.token as string, since, SWEEP_BOUND_MS)
              return `refused ${told} ms, confirmed ${await confirmed(id, since)} ms (bound ${SWEEP_BOUND_MS / 1000} s and a round)`
            },
          },
        ]
      : []),
  ]
}

/** As the holder would: logs in, reads, takes the reader's role (which outlives a dropped one), and stays connected. */
async function openSession(secret: Record<string, string>): Promise<{ rows: number; cut: Promise<void> }> {
  const client = new pg.Client({
    host: secret.PGHOST,
    port: Number(secret.PGPORT),
    database: secret.PGDATABASE,
    user: secret.PGUSER,
    password: secret.PGPASSWORD,
    application_name: secret.PGAPPNAME,
  })
  client.on('error', () => {})
  await client.connect()
  const { rows } = await client.query<{ n: number }>('select count(*)::int as n from orders')
  await client.query('set role app_ro')
  const cut = new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Wrong('the open session was not cut')), CONFIRM_MS)
    client.once('end', () => {
      clearTimeout(timer)
      resolve()
    })
  })
  return { rows: rows[0]?.n ?? 0, cut }
}

async function sendSignal(world: World, subject: object): Promise<Answer> {
  const body = JSON.stringify({
    id: `demo-${process.pid}-${performance.now()}`,
    type: 'account.compromised',
    severity: 'high',
    subject,
    occurred_at: new Date(Date.now()).toISOString(),
    detail: 'told by the demo',
  })
  const at = Math.floor(Date.now() / 1000)
  const mac = createHmac('sha256', world.signalSecret).update(`${at}.${body}`).digest('hex')
  return call('POST', `${world.server}/v1/signals`, {
    headers: { 'content-type': 'application/json', 'curfew-source': 'demo-edr', 'curfew-signature': `t=${at},v1=${mac}` },
    body,
  })
}
