/** Owns the demo's story: each step does the thing, looks whether it happened, and only then says so. */
import { createHash, createHmac } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { createLocalJWKSet, jwtVerify } from 'jose'
import { openSession } from './story-session.js'
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

/** The bound on a revocation at the guards. Milliseconds. */
const BOUND_MS = 1_000
/** The same without Redis: one poll of the truth, and the way. */
const POLL_BOUND_MS = 2_000
/** The bound on confirming it without Redis: one sweep. Milliseconds. */
const SWEEP_BOUND_MS = 5_000
const CONFIRM_MS = 10_000
/** What the agent asks for, and what a verifier allows a clock. */
const AGENT_TTL_MS = 5_000
const TOLERANCE_MS = 5_000

export async function storyOf(world: World): Promise<readonly Step[]> {
  const { server, api } = world
  const ci = await createWorkload(server)
  const agent = await createWorkload(server)
  const evidence = (claims = {}) => world.issuer.githubToken(server, claims)
  const operator = { authorization: `Bearer ${world.operatorToken}`, 'content-type': 'application/json' }

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
  /** How long its API still takes it: milliseconds since `since`, and what it says then. */
  async function refused(token: string, since: number, { by = ci, boundMs = BOUND_MS, url = api.url } = {}): Promise<{ ms: number; says: string }> {
    for (;;) {
      const answer = await by.use(url, token, url === api.url ? 'DPoP' : 'Bearer')
      const ms = Math.round(performance.now() - since)
      if (answer.status === 401) return { ms, says: answer.body.code }
      expect(answer.status === 200 && ms < boundMs, 'the API refuses it in time', answer)
      await sleep(10)
    }
  }
  /** Ended by a responder, and since when. */
  async function revoked(id: string, reason: string): Promise<{ since: number; answer: Answer }> {
    const since = performance.now()
    const body = JSON.stringify({ selector: { credential: id }, reason })
    const answer = await call('POST', `${server}/v1/revocations`, { headers: operator, body })
    expect(answer.status === 202, 'the revocation is accepted', answer)
    return { since, answer }
  }
  /** What a receipt says once it is final: everything confirmed, and every guard told. */
  async function receipt(id: string, since: number) {
    const keys = createLocalJWKSet((await call('GET', `${server}/v1/receipt-keys`)).body)
    for (;;) {
      const shown = await call('GET', `${server}/v1/receipts/${id}`, { headers: operator })
      const { payload } = await jwtVerify(shown.body.receipt, keys, { typ: 'curfew-receipt+jwt', algorithms: ['ES256'] })
      if (payload.final === true) return payload as typeof payload & { guards: { applied: number; of: number } }
      expect(performance.now() - since < CONFIRM_MS, 'the receipt becomes final in time', payload)
      await sleep(20)
    }
  }

  let job: Awaited<ReturnType<typeof granted>>
  let refusal: ReturnType<typeof refused>
  // Begun now, so that its time runs while the others are told.
  const agentsToken = (async () => {
    const opened = await agent.open(await world.assertion(), ['demo/orders-ro'])
    expect(opened.status === 201, "the agent's task opens", opened)
    const made = await agent.credential({ task: opened.body.task.id, token: opened.body.token }, 'demo/orders-ro', { ttl_seconds: AGENT_TTL_MS / 1000 })
    expect(made.status === 201, 'the agent is issued a credential', made)
    const token = made.body.secret.token as string
    const first = await agent.use(api.url, token)
    expect(first.status === 200, 'the API accepts the agent', first)
    return { token, endsAt: performance.now() + AGENT_TTL_MS }
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
        const answer = await ci.use(api.url, job.secret.token as string)
        expect(answer.status === 200 && answer.body.orders.length === 2, 'the orders are read', answer)
        return '200, 2 orders'
      },
    },
    {
      title: 'the job ends',
      async act() {
        const since = performance.now()
        const done = await ci.complete(job.held)
        expect(done.status === 200 && done.body.task.state === 'completed', 'the task completes', done)
        // Asked from now on, and told in the next step.
        refusal = refused(job.secret.token as string, since)
        refusal.catch(() => {})
        return `completed, confirmed dead ${await confirmed(job.id, since)} ms`
      },
    },
    {
      title: 'the API refuses it',
      async act() {
        const { ms, says } = await refusal
        expect(says === 'revoked', 'its guard was told by the feed', says)
        return `401 ${says}, ${ms} ms after the job ended`
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
        expect((await child.use(api.url, token)).status === 200, 'the API accepts the child', made)
        const since = performance.now()
        await agent.complete(parent)
        const { ms } = await refused(token, since, { by: child })
        return `the child reads, its parent ends: child refused ${ms} ms`
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
        const { since, answer: acted } = await revoked(id, 'INC-205')
        await refused(secret.token as string, since)
        await confirmed(id, since)
        const { sub, guards } = await receipt(acted.body.receipt, since)
        expect(sub === acted.body.revocation.id && guards.of > 0 && guards.applied === guards.of, 'every guard applied it', guards)
        return `revoked, receipt ${(acted.body.receipt as string).slice(0, 12)} verified, ${guards.applied} of ${guards.of} guards`
      },
    },
    {
      title: 'a responder revokes',
      async act() {
        const { id, secret } = await granted('demo/orders-ro')
        expect((await ci.use(api.url, secret.token as string)).status === 200, 'it works before')
        const { since } = await revoked(id, 'INC-204')
        const { ms } = await refused(secret.token as string, since)
        return `refused ${ms} ms, confirmed ${await confirmed(id, since)} ms`
      },
    },
    {
      title: 'a long download is cut',
      async act() {
        const { id, secret } = await granted('demo/orders-ro')
        const running = await ci.download(`${api.url}/export`, secret.token as string)
        expect(running.status === 200 && running.bytes() > 0, 'the download runs', running.status)
        // So that it is seen to run.
        await sleep(250)
        const { since } = await revoked(id, 'INC-206')
        const ending = await Promise.race([running.ended, sleep(BOUND_MS, 'late' as const)])
        const ms = Math.round(performance.now() - since)
        expect(ending === 'cut', 'its connection is cut in time', ending)
        return `${Math.round(running.bytes() / 1024)} KB received, cut ${ms} ms after the revocation`
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
        const both = await Promise.all([refused(one.secret.token as string, since), refused(two.secret.token as string, since, { url: api.bearerUrl })])
        return `2 refused in ${Math.max(...both.map(r => r.ms))} ms`
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
    {
      title: 'a job asks for a token and a user',
      async act() {
        const opened = await ci.open(await evidence(), ['demo/orders-ro', 'demo/orders-db'], { heartbeat_seconds: 60 })
        const held = { task: opened.body.task.id as string, token: opened.body.token as string }
        const bundle = (...capabilities: object[]) => ci.as(held, 'POST', `/v1/tasks/${held.task}/credentials`, { capabilities })
        const [token, user] = [{ capability: 'demo/orders-ro' }, { capability: 'demo/orders-db' }]
        const wrong = await bundle(token, { ...user, params: { superuser: true } })
        expect(wrong.status === 400 && wrong.body.field.startsWith('capabilities.1'), 'the part that is wrong is named', wrong)
        const made = await bundle(token, user)
        expect(made.status === 201 && made.body.credentials.length === 2, 'both are issued', made)
        const listed = await call('GET', `${server}/v1/credentials?task=${held.task}`, { headers: operator })
        expect(listed.body.credentials.length === 2, 'the refused one left nothing', listed)
        const since = performance.now()
        await ci.complete(held)
        for (const { credential } of made.body.credentials) await confirmed(credential.id, since)
        return `none for one wrong part; both, then both dead ${Math.round(performance.now() - since)} ms`
      },
    },
    {
      title: 'an agent with a registered key works',
      async act() {
        const { token, endsAt } = await agentsToken
        await sleep(Math.max(0, endsAt - performance.now() + TOLERANCE_MS + 1_000))
        const answer = await agent.use(api.url, token)
        expect(answer.status === 401 && answer.body.code === 'token_expired', 'its time is up', answer)
        return `200, then its ${AGENT_TTL_MS / 1000} s and ${TOLERANCE_MS / 1000} of tolerance are up: 401`
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
              const { ms } = await refused(secret.token as string, since, { boundMs: POLL_BOUND_MS })
              return `refused ${ms} ms (bound ${POLL_BOUND_MS / 1000} s), confirmed ${await confirmed(id, since)} ms (${SWEEP_BOUND_MS / 1000} s and a round)`
            },
          },
        ]
      : []),
  ]
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
