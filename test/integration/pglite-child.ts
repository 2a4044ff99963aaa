/** A process of its own over an embedded directory: opens it, says so, and issues until it is killed, naming each acknowledged credential. */
import { openStore } from '../../src/store/open.js'
import { grantFor, mark, minted, openTask, sealed } from '../conformance/store/fixtures.js'

const [dir, migrationsDir, mode] = process.argv.slice(2) as [string, string, string]
const context = { requestId: null, actor: { kind: 'workload' as const, id: 'child' } }
try {
  const store = await openStore({ kind: 'pglite', dir }, { migrationsDir, sealDigest: sealed, log: { warn: () => {} } })
  process.stdout.write('open\n')
  if (mode === 'count') {
    const { active } = await store.credentials.counts()
    const rows = await store.credentials.list({ limit: 1_000_000 })
    process.stdout.write(
      `${JSON.stringify({ active, ids: rows.map(r => r.id), issued: (await store.audit.list({ kind: 'credential.issued', limit: 1_000_000 })).length })}\n`,
    )
    await store.close()
  } else {
    const task = await openTask(store)
    for (;;) {
      const c = await store.credentials.record(grantFor(store, task, { maxLive: 1_000_000 }), minted(), {
        marks: [mark(store, { id: `${process.pid}-${performance.now()}` })],
        context,
      })
      process.stdout.write(`${c.id}\n`)
    }
  }
} catch (error) {
  process.stdout.write(`refused ${(error as Error).message}\n`)
  process.exitCode = 1
}
