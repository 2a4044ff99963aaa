/** Owns the races between two brokers and two workers, as processes over the real store, Redis and Vault: R01 to R06, R11 and R12 (R13 is F44). */
import { createHash } from 'node:crypto'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createWorkload } from '../../src/dev/workload.js'
import { newId } from '../../src/domain/ids.js'
import { type Clients, clientsOf } from './clients.js'
import { addGuard, follow } from './followers.js'
import { endAll, stoppedAt } from './formation.js'
import { auditMark, canLogIn } from './invariants.js'
import { type Entry, type Held, type Ledger, newLedger } from './ledger.js'
import { pick, type Random, randomOf } from './load.js'
import { rowOf, when } from './queues.js'
import type { Case, Report } from './report.js'
import { upstream } from './upstream.js'
import { type Broker, DB, JWT, kill, type World } from './world.js'

/** So many uses of one thing (R01). */
const USES = 200
const ROUNDS = 16

interface Place {
  readonly world: World
  /** Two replicas at one public URL. */
  readonly brokers: readonly [Broker, Broker]
  readonly a: Clients
  readonly b: Clients
  readonly random: Random
  readonly ledger: Ledger
}

type Act = (place: Place, c: Case) => Promise<string>

const many = <T>(n: number, act: (i: number) => Promise<T>): Promise<T[]> => Promise.all(Array.from({ length: n }, (_, i) => act(i)))

/** Of all uses of one thing one is acknowledged, and the others are refused as repeats: an answer that it is unavailable would tell nobody whether it was used. */
function onlyOne(c: Case, what: string, entries: readonly Entry[]): void {
  const won = entries.filter(e => e.subject !== null)
  c.expect(won.length === 1, `R01 ${what} was good ${won.length} times`)
  const other = entries.filter(e => e.subject === null && !/replayed/.test(e.problem ?? ''))
  c.expect(other.length === 0, `R01 ${what}: ${other.length} were answered otherwise, like ${other[0]?.status} ${other[0]?.problem}`)
}

const onceOnly: Act = async ({ world, brokers, a, b, ledger }, c) => {
  const by = (i: number) => (i % 2 ? a : b)
  /** What comes into the ledger from now on. */
  const listening = () => {
    const from = ledger.entries.length
    return () => ledger.entries.slice(from)
  }
  const evidence = await world.issuer.githubToken(brokers[0].url)
  const ofEvidence = listening()
  const opened = await many(USES, async i => by(i).openWith(await createWorkload(brokers[0].url), evidence, [DB, JWT], null))
  onlyOne(c, 'a piece of evidence', ofEvidence())

  const held = opened.find(h => h !== null) as Held
  const url = `${brokers[0].url}/v1/tasks/${held.task}/credentials`
  const proof = await held.workload.proof('POST', url, held.token)
  const ofProof = listening()
  await many(USES, i => by(i).issue(held, i % 4 < 2 ? 'jwt' : 'db', { proof }))
  onlyOne(c, 'a proof', ofProof())

  const below = await a.grant(held, { capabilities: [JWT] })
  if (!below) throw new Error('nothing was granted')
  const ofGrant = listening()
  await many(USES, i => by(i).openWith(below.workload, null, [JWT], below))
  onlyOne(c, 'a grant', ofGrant())
  await b.complete(held)
  return `a piece of evidence, a proof and a grant, ${USES} times each at once: one of each`
}

/** Refused from the acknowledgement on, by both. */
async function refusedByBoth({ a, b }: Place, c: Case, held: Held, what: string): Promise<void> {
  if (held.credential?.kind !== 'jwt') return
  const token = held.credential.secret.token as string
  const seen = await Promise.all([a.introspect(token), b.introspect(token)])
  c.expect(!seen.includes(true), `${what} ${held.credential.id} is accepted after its end: ${seen}`)
}

const revokedWhileIssued: Act = async (place, c) => {
  const { a, b, random } = place
  const told = { delivered: 0, refused: 0 }
  for (let i = 0; i < ROUNDS; i += 4)
    await many(4, async n => {
      const held = await a.opened()
      const issuing = a.issue(held, n % 2 ? 'jwt' : 'db')
      await sleep(random() * 120)
      const ending = await b.revoke(held)
      c.expect(ending.subject !== null, `R02 the revocation was answered ${ending.status} ${ending.problem}`)
      told[(await issuing).subject === null ? 'refused' : 'delivered']++
      // By its name, should it have come between the look and the act.
      if (held.refusedFrom === null || held.endedFrom === null) await b.complete(held)
      await refusedByBoth(place, c, held, 'R02')
    })
  return `${ROUNDS} rounds: ${told.delivered} delivered and dead, ${told.refused} refused`
}

const STEPS = ['issue.3', 'issue.4a', 'issue.4b', 'issue.4c', 'issue.5a', 'issue.5b', 'issue.6'] as const
/** Settled, and no look at its row is left: what it delivers has been refused since, unless its token died before it was kept alive. */
const MAY_DELIVER: readonly string[] = ['issue.5a', 'issue.5b', 'issue.6']

/** The same at every step of an issue: one broker stands there while the other ends the task. */
const revokedAtEachStep: Act = async ({ world, b, ledger }, c) => {
  const stopped = await stoppedAt(world, ledger, STEPS)
  try {
    for (const { held, step } of stopped) c.expect((await b.revoke(held)).subject !== null, `R02 ${step}: the revocation was not acknowledged`)
    for (const s of stopped) s.resume()
    const answers = await Promise.all(stopped.map(s => s.answer))
    for (const [i, answer] of answers.entries()) {
      const { step, held } = stopped[i] as (typeof stopped)[number]
      if (answer.subject === null) continue
      c.expect(MAY_DELIVER.includes(step), `R02 ${step}: DELIVERED after the end of its task`)
      await when(`what was delivered at ${step} is dead`, async () => (await rowOf(world, held.task)).state === 'revoked')
      c.expect(!held.credential || !(await canLogIn(held.credential.secret)), `R02 ${step}: what was delivered opens the target`)
    }
    return `heard ${answers.map((answer, i) => `${STEPS[i]?.slice(6)} ${answer.status}`).join(', ')}`
  } finally {
    await endAll(stopped)
  }
}

const renewedWhileCompleted: Act = async (place, c) => {
  const { a, b, random } = place
  const told = { kept: 0, refused: 0 }
  const renewals = [
    (held: Held) => a.heartbeat(held),
    (held: Held) => a.issue(held, 'jwt', { fresh: true }),
    (held: Held) => a.issue(held, 'jwt', { key: 'asked-for-before' }),
  ]
  for (let i = 0; i < ROUNDS; i += 4)
    await many(4, async () => {
      const held = await a.opened()
      await a.issue(held, 'jwt', { key: 'asked-for-before' })
      const renew = pick(random, renewals)
      const renewing = many(3, () => renew(held))
      await sleep(random() * 30)
      const ending = await b.complete(held)
      c.expect(ending.subject !== null, `R03 the completion was answered ${ending.status} ${ending.problem}`)
      for (const e of await renewing) told[e.subject === null ? 'refused' : 'kept']++
      await refusedByBoth(place, c, held, 'R03')
      for (const late of [await renew(held), await b.heartbeat(held)])
        c.expect(late.subject === null && /^task_ended/.test(late.problem ?? ''), `R03 ${late.op} after the end was answered ${late.status} ${late.problem}`)
    })
  return `${ROUNDS} rounds of three: ${told.kept} before the end, ${told.refused} refused`
}

const completedByMany: Act = async ({ world, a, b }, c) => {
  const held = await a.opened()
  await a.issue(held, 'db')
  const ends = await many(100, i => (i % 2 ? a : b).complete(held))
  // On a crowded machine the last in the row may be told to ask again: then it does.
  const told503 = ends.filter(e => e.status === 503)
  const unanswered = [...ends.filter(e => e.status !== 503), ...(await many(told503.length, () => a.complete(held)))].filter(e => e.subject === null)
  c.expect(unanswered.length === 0, `R04 ${unanswered.length} were answered otherwise, like ${unanswered[0]?.status} ${unanswered[0]?.problem}`)
  const told = await world.rows<{ n: number }>(
    'store',
    `select count(*)::int as n from curfew.audit where (kind = 'task.ended' and subject = $1) or (kind = 'credential.revoking' and subject = $2)`,
    [held.task, held.credential?.id],
  )
  c.expect(told[0]?.n === 2, `R04 its end and its credential's are told ${told[0]?.n} times`)
  return `100 at once${told503.length > 0 ? `, ${told503.length} of them told to ask again` : ''}, ended once`
}

const parentRevoked: Act = async (place, c) => {
  const { a, b, random } = place
  const told = { none: 0, opened: 0, issued: 0 }
  for (let i = 0; i < ROUNDS; i += 4)
    await many(4, async n => {
      const parent = await a.opened()
      const kind = n % 2 ? 'jwt' : 'db'
      const making = (async () => {
        const child = await a.delegate(parent, { capabilities: [kind === 'jwt' ? JWT : DB], evidence: n > 1 })
        if (child) await a.issue(child, kind)
        return child
      })()
      await sleep(random() * 150)
      const ending = await b.revoke(parent)
      c.expect(ending.subject !== null, `R05 the revocation was answered ${ending.status} ${ending.problem}`)
      const child = await making
      told[child?.credential ? 'issued' : child ? 'opened' : 'none']++
      if (!child) return
      c.expect(child.endedFrom !== null, 'R05 the child does not count as ended')
      await refusedByBoth(place, c, child, 'R05')
      const late = await a.issue(child, kind)
      c.expect(late.subject === null, `R05 ${late.subject} was issued below a parent that was revoked`)
    })
  return `${ROUNDS} rounds: ${told.none} children refused, ${told.opened} opened, ${told.issued} issued to, all over with their parents`
}

/** A rule more, and less again: what is sent after both brokers have read it hears its word. */
const policyChanged: Act = async ({ world, brokers, a, b }, c) => {
  const file = join(world.dir, 'policies', 'race.cedar')
  const loaded = async (since: number) => {
    for (const { child } of brokers) process.kill(child.mark.pid, 'SIGHUP')
    const told = () => world.rows('store', `select 1 from curfew.audit where kind = 'policy.loaded' and id > $1`, [since])
    await when('both have read the policies', async () => (await told()).length >= brokers.length)
    return Date.now()
  }
  const helds = [await a.opened(), await b.opened()]
  let isOver = false
  const asking = helds.map(async (held, i) => {
    const entries: Entry[] = []
    while (!isOver) entries.push(await (i ? b : a).issue(held, 'jwt'))
    return entries
  })
  try {
    await sleep(300)
    writeFileSync(file, `@id("race") forbid (principal, action == Action::"issue", resource == Capability::"${JWT}");\n`)
    const from = await loaded(await auditMark(world))
    await sleep(300)
    isOver = true
    const entries = (await Promise.all(asking)).flat()
    const late = entries.filter(e => e.sentAt >= from)
    for (const e of late) c.expect(/^policy_denied/.test(e.problem ?? ''), `R06 after both had read the rule ${e.op} was answered ${e.status} ${e.problem}`)
    const before = entries.filter(e => e.subject !== null).length
    c.expect(before > 0 && late.length > 0, `R06 ${before} were issued before and ${late.length} asked for after`)
    const [odd] = await world.rows<{ n: number }>(
      'store',
      `select count(distinct d.digest)::int as n from curfew.credentials c join curfew.decisions d on d.id = c.decision where c.task = any($1::text[])`,
      [helds.map(h => h.task)],
    )
    c.expect(odd?.n === 1, `R06 what was issued rests on ${odd?.n} sets of policies`)
    return `${before} issued under the old rules, ${late.length} denied once both had read the new`
  } finally {
    isOver = true
    await Promise.all(asking)
    rmSync(file)
    await loaded(await auditMark(world))
    for (const held of helds) {
      c.expect((await a.issue(held, 'jwt')).subject !== null, 'R06 the twin under the old rules was not issued')
      await a.complete(held)
    }
  }
}

const feedRead: Act = async ({ world, brokers, a, b, random }, c) => {
  const key = await addGuard(world, brokers[0], `races-${createHash('sha256').update(String(performance.now())).digest('hex').slice(0, 8)}`)
  const helds = await many(20, i => (i % 2 ? a : b).opened())
  const join = (name: string, at: Broker) => follow(at, key, name, c.wrong)
  const followers = [await join('steady-a', brokers[0]), await join('steady-b', brokers[1]), await join('cut-a', brokers[0]), await join('cut-b', brokers[1])]
  const cutting = setInterval(() => {
    for (const f of followers.slice(2)) if (random() < 0.5) f.cut()
  }, 60)
  try {
    await many(helds.length * 3, async i => {
      const held = helds[i % helds.length] as Held
      await sleep(random() * 1_500)
      const by = i % 2 ? a : b
      // The first of three ends it; the others are acts that move nothing, or issue and give back before that.
      if (i < helds.length) return void (await by.issue(held, 'jwt'))
      await by[i % 3 ? 'complete' : 'revoke'](held)
    })
    // Somebody who comes now is given what stands, and goes on from there.
    followers.push(await join('late-b', brokers[1]))
    for (const held of helds) await a.complete(held)
    const [row] = await world.rows<{ seq: number }>('store', 'select max(seq)::int as seq from curfew.revocations')
    const end = row?.seq ?? 0
    await when('all have heard the last act', () => followers.every(f => f.seq() >= end), 10_000)
    const [first, ...others] = followers.slice(0, 4)
    for (const f of others) {
      // They joined one after the other: what one had in its snapshot, another heard.
      const common = Math.max(first?.seqs[0] ?? end, f.seqs[0] ?? end)
      const tail = (of: readonly number[] = []) => of.filter(seq => seq >= common).join()
      c.expect(tail(f.seqs) === tail(first?.seqs), `R11 ${f.name} and ${first?.name} heard other acts`)
    }
    return `${first?.seqs.length} acts heard in order by ${followers.length} followers at two brokers, two of them cut off over and over`
  } finally {
    clearInterval(cutting)
    await Promise.all(followers.map(f => f.stop()))
  }
}

/** Under our token role and with our metadata, and in no row: as a crash would leave it that lost its row's store. */
async function makeOrphan(world: World): Promise<string> {
  const credential = newId('credential')
  const body = { meta: { curfew: '1', credential_id: credential }, policies: ['curfew-cap-orders-ro'], no_default_policy: true, ttl: '300s' }
  const answer = await fetch(`${world.vault.address}/v1/auth/token/create/curfew`, {
    method: 'POST',
    headers: { 'X-Vault-Token': world.vault.rootToken },
    body: JSON.stringify(body),
  })
  const { auth } = (await answer.json()) as { auth?: { client_token: string } }
  if (!auth) throw new Error(`Vault made no token: ${answer.status}`)
  const read = await fetch(`${world.vault.address}/v1/database/creds/orders-ro`, { headers: { 'X-Vault-Token': auth.client_token } })
  if (read.status !== 200) throw new Error(`Vault made no user: ${read.status}`)
  return credential
}

/** Two workers and two brokers go for the same rows at once. */
const claimedByMany: Act = async ({ world, a, b }, c) => {
  const helds = await many(12, async i => {
    const held = await (i % 2 ? a : b).opened()
    await (i % 2 ? a : b).issue(held, 'db')
    return held
  })
  await many(helds.length, i => (i % 2 ? b : a).complete(helds[i] as Held))
  await when('all are revoked', async () => (await many(helds.length, i => rowOf(world, (helds[i] as Held).task))).every(r => r.state === 'revoked'), 30_000)
  const rows = await many(helds.length, i => rowOf(world, (helds[i] as Held).task))
  for (const row of rows) c.expect(row.successes === 1, `R12 ${row.id} has ${row.successes} successes`)
  return `${rows.length} rows, one success each, ${Math.max(...rows.map(r => r.attempts))} attempts failed`
}

/** Older than 60 s by now, or soon. */
const ORPHAN_MS = 90_000

async function orphanEnded({ world }: Place, c: Case, orphan: string, healthy: Held, madeAt: number): Promise<string> {
  const left = async () => (await upstream(world)).filter(t => t.id === orphan || t.id.includes(orphan.replace('_', '-')))
  while ((await left()).length > 0 && Date.now() - madeAt < ORPHAN_MS) await sleep(500)
  const still = await left()
  for (const thing of still) c.orphan(`R12 ${thing.kind} ${thing.id} is left`)
  const told = await world.rows<{ n: number }>('store', `select count(*)::int as n from curfew.audit where kind = 'reconcile.finding' and subject = $1`, [
    orphan,
  ])
  c.expect((told[0]?.n ?? 0) > 0, 'R12 the orphan was found by nobody')
  const row = await rowOf(world, healthy.task)
  c.expect(
    row.state === 'active' && healthy.credential !== null && (await canLogIn(healthy.credential.secret)),
    `R12 the healthy one beside it is ${row.state}`,
  )
  return `an orphan ended by one of four reconcilers ${Math.round((Date.now() - madeAt) / 1000)} s after it was made (older than 60 s), told ${told[0]?.n} times; the healthy one beside it lives`
}

export async function raceCases(world: World, report: Report, seed: number): Promise<void> {
  const timers = { issuanceTokenSeconds: 30 }
  const first = await world.broker({ timers })
  const brokers = [first, await world.broker({ timers, at: await world.endpoint(first) })] as const
  const workers = await Promise.all([world.worker({ timers }), world.worker({ timers })])
  const [ledger, mark] = [newLedger(), await auditMark(world)]
  const [a, b] = [clientsOf(world, brokers[0], ledger), clientsOf(world, brokers[1], ledger)]
  const place: Place = { world, brokers, a, b, random: randomOf('races', seed), ledger }
  const race = (name: string, act: Act) => report.case(`${name}; two brokers, two workers`, c => act(place, c), { ledger, mark })
  try {
    const [orphan, madeAt] = [await makeOrphan(world), Date.now()]
    const healthy = await a.opened()
    await a.issue(healthy, 'db')
    await race('R01 one thing, many uses', onceOnly)
    await race('R02 revoked while it is issued', revokedWhileIssued)
    await race('R02 revoked at each step of an issue', revokedAtEachStep)
    await race('R03 completed while it is renewed', renewedWhileCompleted)
    await race('R04 completed by many', completedByMany)
    await race('R05 a parent revoked while its child is opened and issued to', parentRevoked)
    await race('R06 policies changed while credentials are issued', policyChanged)
    await race('R11 the feed read while acts are committed', feedRead)
    await race('R12 claimed by many', claimedByMany)
    await race('R12 reconciled by many', (p, c) => orphanEnded(p, c, orphan, healthy, madeAt))
    await race('R01–R06, R11, R12 the invariants over all of them', async (_, c) => {
      for (const held of ledger.held) if (held.refusedFrom === null) await a.complete(held)
      const { rows, slowestMs } = await c.judge()
      return `${rows} rows, ${ledger.entries.length} acts, slowest confirmation ${slowestMs} ms`
    })
  } finally {
    await Promise.all([...brokers.map(x => kill(x.child)), ...workers.map(kill)])
  }
}
