import { test } from 'vitest'
import { startCluster } from './postgres-cluster.js'
import { connect, storeOver } from '../../src/store/open.js'
import { Secret } from '../../src/domain/secret.js'
import { houseOver, quiet } from '../conformance/store/houses.js'
import { context, grantFor, mark, minted, openTask, sealed } from '../conformance/store/fixtures.js'
import { credentialStore, oneByOne } from '../../src/store/credentials.js'
import { groupCommit } from '../../src/store/group-commit.js'
test('bench', async () => {
  const c = await startCluster({ shared_buffers: '256MB' })
  const conns = await connect({ kind: 'postgres', url: Secret.token(c.url), maxConnections: 16 }, quiet)
  const house = await houseOver(conns, 'postgres')
  const { store } = await house.make()
  const tasks = []
  for (let i = 0; i < 50; i++) tasks.push(await openTask(store))
  const roads = { plain: credentialStore(conns.main, { sealDigest: sealed }, oneByOne), group: credentialStore(conns.main, { sealDigest: sealed }, groupCommit) }
  const pct = (l: number[], p: number) => l.sort((a, b) => a - b)[Math.floor(l.length * p)]!.toFixed(1)
  for (const round of [1, 2]) for (const [name, road] of Object.entries(roads)) for (const width of [1, 16, 64, 256]) {
    const lat: number[] = []
    const until = performance.now() + 3000
    let n = 0
    const cpu0 = process.cpuUsage()
    await Promise.all(Array.from({ length: width }, async (_, w) => {
      while (performance.now() < until) {
        const t = performance.now()
        const task = tasks[(w + n) % 50]!
        await road.record(grantFor(store, task, { maxLive: 1000000 }), minted(), { marks: [mark(store), mark(store, { namespace: 'dpop:k' })], context })
        lat.push(performance.now() - t); n++
      }
    }))
    const cpu = process.cpuUsage(cpu0)
    console.log(round, name.padEnd(6), String(width).padStart(4), (n / 3).toFixed(0).padStart(6) + '/s', 'p50', pct(lat, 0.5), 'p99', pct(lat, 0.99), 'node cpu us/op', ((cpu.user + cpu.system) / n).toFixed(0))
  }
  // open load
  for (const rate of [1000, 2000]) for (const [name, road] of Object.entries(roads)) {
    const lat: number[] = []; const all: Promise<unknown>[] = []
    const t0 = performance.now(); let sent = 0
    while (performance.now() - t0 < 4000) {
      const due = Math.floor((performance.now() - t0) / 1000 * rate)
      while (sent < due) { sent++; const t = performance.now(); all.push(road.record(grantFor(store, tasks[sent % 50]!, { maxLive: 1000000 }), minted(), { marks: [mark(store), mark(store, { namespace: 'dpop:k' })], context }).then(() => lat.push(performance.now() - t), () => {})) }
      await new Promise(r => setTimeout(r, 1))
    }
    await Promise.all(all)
    console.log('open', rate, name, 'done', lat.length, 'of', sent, 'p50', pct(lat, 0.5), 'p99', pct(lat, 0.99), 'took', ((performance.now() - t0) / 1000).toFixed(1))
  }
  await house.close(); await c.stop()
}, 300000)
