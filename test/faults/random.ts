/** Owns `--runs N --seed S`: random schedules of acts and faults, each reproducible from its seed in what is done when, judged by the clients' own ledger. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Child } from '../../src/dev/process.js'
import { type Clients, clientsOf } from './clients.js'
import { type Held, startProber } from './ledger.js'
import { delegateTo, endHeld, LOAD_SWEEP_MS, LOAD_SWITCH_SECONDS, pick, type Random, randomOf } from './load.js'
import { type Case, type Report, say } from './report.js'
import { type Broker, type Endpoint, kill, type World } from './world.js'

const ACTS = ['issue jwt', 'issue db', 'complete', 'revoke', 'revoke while made', 'signal', 'delegate', 'show again'] as const
const FAULTS = ['kill broker', 'kill worker', 'flushall', 'stop redis', 'cut vault', 'stop broker'] as const
type Act = (typeof ACTS)[number]
type Fault = (typeof FAULTS)[number]

interface Step {
  readonly at: number
  readonly client: number
  readonly act: Act | Fault
}

const CLIENTS = 3
const LENGTH_MS = 2_500
/** Between mint and settle every issue of these runs waits so long: what ends it meanwhile must win. */
const SETTLE_DELAY_MS = 150

/** Nothing here looks at the world: the same seed is the same list. */
export function scheduleOf(seed: number): Step[] {
  const random = randomOf('schedule', seed)
  const steps: Step[] = []
  for (let client = 0; client < CLIENTS; client++) {
    for (let at = random() * 200; at < LENGTH_MS; at += 150 + random() * 350) steps.push({ at: Math.round(at), client, act: pick(random, ACTS) })
  }
  const faults = 1 + Math.floor(random() * 2)
  for (let i = 0; i < faults; i++) steps.push({ at: Math.round(200 + random() * (LENGTH_MS - 400)), client: -1, act: pick(random, FAULTS) })
  return steps.sort((a, b) => a.at - b.at || a.client - b.client)
}

const told = (steps: readonly Step[]): string =>
  steps.map(s => `${(s.at / 1000).toFixed(2)} ${s.client < 0 ? `[${s.act}]` : `${'abc'[s.client]}:${s.act}`}`).join(', ')

interface Pair {
  broker: Broker
  worker: Child
}

export async function randomRuns(world: World, report: Report, options: { runs: number; seed: number; broken?: string | undefined }): Promise<void> {
  const { broken } = options
  const timers = { sweepMs: LOAD_SWEEP_MS, issuanceTokenSeconds: LOAD_SWITCH_SECONDS }
  const startBroker = (at?: Endpoint) =>
    world.broker({ timers, failpoint: `issue.4c=delay:${SETTLE_DELAY_MS}`, ...(at ? { at } : {}), ...(broken ? { broken } : {}) })
  // The store has two guards of its own behind the fence, and each of them alone would stop what the broken statement tries.
  if (broken === 'version-fence') await world.rows('store', 'alter table curfew.credentials disable trigger guard_state, drop constraint credentials_check')
  const [broker, worker] = await Promise.all([startBroker(), world.worker({ timers })])
  const pair: Pair = { broker, worker }
  const faults = faultsOf(world, pair, startBroker, () => world.worker({ timers }))
  say(
    `  random runs of ${LENGTH_MS / 1000} s, ${CLIENTS} clients, sweep ${LOAD_SWEEP_MS} ms (5 s), dead man's switch ${LOAD_SWITCH_SECONDS} s (90 s), ${SETTLE_DELAY_MS} ms between mint and settle${broken ? `, BROKEN: ${broken}` : ''}`,
  )
  try {
    for (let i = 0; i < options.runs; i++) {
      const seed = options.seed + i
      const steps = scheduleOf(seed)
      say(`  seed ${seed}: ${told(steps)}`)
      await report.case(`random run, seed ${seed}`, c => run(world, c, pair, steps, seed, faults))
    }
  } finally {
    await Promise.all([kill(pair.broker.child), kill(pair.worker)])
  }
}

async function run(
  world: World,
  c: Case,
  pair: Pair,
  steps: readonly Step[],
  seed: number,
  faults: Readonly<Record<Fault, () => Promise<void>>>,
): Promise<string> {
  const clients = clientsOf(world, pair.broker, c.ledger, LOAD_SWEEP_MS)
  const prober = startProber(clients, c.ledger)
  const began = performance.now()
  const until = (at: number) => sleep(Math.max(0, at - (performance.now() - began)))
  const acting = Array.from({ length: CLIENTS }, async (_, client) => {
    const own: Held[] = []
    const random = randomOf('choice', seed, client)
    for (const step of steps.filter(s => s.client === client)) {
      await until(step.at)
      await actOf(world, clients, own, random, step.act as Act)
    }
  })
  const failing = steps
    .filter(s => s.client < 0)
    .map(async step => {
      await until(step.at)
      await faults[step.act as Fault]()
      c.ledger.healedAt = Date.now()
    })
  // Every fault heals itself; one that overlaps another waits for nothing.
  await Promise.all([...acting, ...failing])
  await endHeld(clients, c)
  await sleep(200)
  await prober.stop()
  const { slowestMs } = await c.judge()
  const acknowledged = c.ledger.entries.filter(e => e.subject !== null).length
  return `${acknowledged} of ${c.ledger.entries.length} acts acknowledged, ${c.ledger.hostile.length} shown again or too wide, ${c.ledger.probes} probes, slowest confirmation ${slowestMs} ms`
}

async function actOf(world: World, clients: Clients, own: Held[], random: Random, act: Act): Promise<void> {
  const choice = random()
  if (act === 'issue jwt' || act === 'issue db' || act === 'revoke while made') {
    const held = await clients.open()
    if (!held) return
    const issuing = clients.issue(held, act === 'issue jwt' ? 'jwt' : 'db')
    if (act === 'revoke while made') await revokePending(world, clients, held)
    await issuing
    if (held.credential) own.push(held)
    return
  }
  const live = own.filter(h => h.refusedFrom === null)
  const held = live[Math.floor(choice * live.length)]
  if (!held) return
  if (act === 'delegate') {
    const child = await delegateTo(clients, held, random)
    if (child?.credential) own.push(child)
  } else if (act === 'show again') await clients.replay(held, pick(random, ['evidence', 'proof', 'grant'] as const))
  else await clients[act](held)
}

/** By the holder, who gives back what is still being made: the task goes on and nobody is barred, so that nothing but the row's own fence stops it. */
async function revokePending(world: World, clients: Clients, held: Held): Promise<void> {
  for (let i = 0; i < 40; i++) {
    const rows = await world
      .rows<{ id: string }>('store', `select id from curfew.credentials where task = $1 and state = 'pending' and handle is not null`, [held.task])
      .catch(() => [])
    if (rows[0]) {
      // Into the ledger it goes as an end of whatever this issue may still hand over.
      await clients.giveBack(held, rows[0].id)
      return
    }
    await sleep(10)
  }
}

function faultsOf(
  world: World,
  pair: Pair,
  startBroker: (at: Endpoint) => Promise<Broker>,
  startWorker: () => Promise<Child>,
): Readonly<Record<Fault, () => Promise<void>>> {
  // Two faults of one run may want the same process: one after the other.
  let last: Promise<void> = Promise.resolve()
  const inTurn = (fault: () => Promise<void>) => () => {
    last = last.catch(() => {}).then(fault)
    return last
  }
  return {
    'kill broker': inTurn(async () => {
      process.kill(pair.broker.child.mark.pid, 'SIGKILL')
      await kill(pair.broker.child)
      pair.broker = await startBroker(pair.broker)
    }),
    'kill worker': inTurn(async () => {
      process.kill(pair.worker.mark.pid, 'SIGKILL')
      await kill(pair.worker)
      pair.worker = await startWorker()
    }),
    'stop broker': inTurn(async () => {
      process.kill(pair.broker.child.mark.pid, 'SIGSTOP')
      await sleep(700)
      process.kill(pair.broker.child.mark.pid, 'SIGCONT')
    }),
    flushall: inTurn(async () => void (await world.redisCommand('flushall'))),
    'stop redis': inTurn(async () => {
      process.kill(world.redis.pid, 'SIGSTOP')
      await sleep(900)
      process.kill(world.redis.pid, 'SIGCONT')
    }),
    'cut vault': inTurn(async () => {
      for (let i = 0; i < 3; i++) {
        world.proxy.cut()
        await sleep(120)
      }
      world.proxy.refuse(true)
      await sleep(400)
      world.proxy.refuse(false)
    }),
  }
}
