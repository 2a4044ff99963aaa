/** Owns what is looked at when all runs are over: that no secret lies in any sink (I11), that memory stayed bounded (I12), and that a stranger learns nothing of what is not his (I10). */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { newId } from '../../src/domain/ids.js'
import { clientsOf } from './clients.js'
import { handed, newLedger } from './ledger.js'
import type { Report } from './report.js'
import { kill, type World } from './world.js'

const MOST_MB = 512

export async function sinkCases(world: World, report: Report): Promise<void> {
  await report.case('I11 no secret that was handed over, and none of ours, lies in the logs, in Redis or in the store', async c => {
    const secrets = [...new Set([...[...handed].map(markOf), world.operatorToken, ...world.ownSecrets])]
    const sinks = [
      ...filesBelow(world.dir).map(path => ({ name: path.slice(world.dir.length + 1), text: readFileSync(path, 'latin1') })),
      ...(await tables(world)),
    ]
    // The checker can find what is there: every credential's id is in the store.
    const [row] = await world.rows<{ id: string }>('store', 'select id from curfew.credentials limit 1')
    c.expect(
      sinks.some(s => row !== undefined && s.text.includes(row.id)),
      'the sinks hold not even an id: nothing was looked at',
    )
    for (const { name, text } of sinks)
      for (const secret of secrets) if (text.includes(secret)) c.wrong(`I11 ${name} holds a secret of ${secret.length} characters`)
    const bytes = sinks.reduce((sum, s) => sum + s.text.length, 0)
    return `${secrets.length} secrets looked for in ${sinks.length} sinks, ${Math.round(bytes / 1e6)} MB`
  })

  await report.case(`I12 no process grew beyond ${MOST_MB} MB`, async c => {
    const peak = world.peakMb()
    c.expect(peak > 20, `only ${peak} MB were ever seen: nothing was measured`)
    c.expect(peak < MOST_MB, `a process had ${peak} MB`)
    return `the largest had ${peak} MB`
  })

  await report.case('I10 what is not his answers a stranger as what does not exist', async c => {
    const broker = await world.broker({ queue: 'memory' })
    try {
      const stranger = await clientsOf(world, broker, newLedger()).opened()
      const others = await world.rows<{ id: string; task: string }>(
        'store',
        'select id, task from curfew.credentials where task <> $1 order by random() limit 8',
        [stranger.task],
      )
      c.expect(others.length > 0, 'there is nothing that is not his')
      const paths = (credential: string, task: string): [string, string][] => [
        ['GET', `/v1/credentials/${credential}`],
        ['DELETE', `/v1/credentials/${credential}`],
        ['GET', `/v1/tasks/${task}`],
        ['POST', `/v1/tasks/${task}/heartbeat`],
        ['POST', `/v1/tasks/${task}/complete`],
        ['POST', `/v1/tasks/${task}/credentials`],
      ]
      const ask = async (method: string, path: string) => {
        const url = broker.url + path
        const answer = await fetch(url, {
          method,
          headers: {
            authorization: `DPoP ${stranger.token}`,
            dpop: await stranger.workload.proof(method, url, stranger.token),
            ...(method === 'POST' ? { 'content-type': 'application/json' } : {}),
          },
          ...(method === 'POST' ? { body: path.endsWith('credentials') ? '{"capability":"api/orders"}' : '{}' } : {}),
        })
        const body = (await answer.json()) as Record<string, unknown>
        return JSON.stringify([answer.status, { ...body, request_id: null }, [...answer.headers.keys()].filter(k => k !== 'date').sort()])
      }
      let asked = 0
      for (const { id, task } of others) {
        const real = paths(id, task)
        const absent = paths(newId('credential'), newId('task'))
        for (const [i, [method, path]] of real.entries()) {
          asked++
          const [seen, wanted] = [await ask(method, path), await ask(...(absent[i] as [string, string]))]
          if (seen !== wanted || !seen.startsWith('[404,')) c.wrong(`I10 ${method} ${path}: ${seen}, and of nothing ${wanted}`)
        }
      }
      // His own answers otherwise: what was compared is not a broker that knows nothing.
      c.expect((await ask('GET', `/v1/tasks/${stranger.task}`)).startsWith('[200,'), 'his own task is not found')
      return `${asked} questions`
    } finally {
      await kill(broker.child)
    }
  })
}

/** Of a signed token its signature: the rest may be told in parts. */
const markOf = (secret: string): string => (secret.split('.').length === 3 ? (secret.split('.')[2] as string) : secret)

/** Logs, Redis's own files; not what is handed to a process on purpose: its configuration and the operator's token. */
function filesBelow(dir: string): string[] {
  const found: string[] = []
  for (const name of readdirSync(dir)) {
    const path = join(dir, name)
    if (name === 'vault' || name === 'store' || name === 'target' || name === 'operator.token' || name.endsWith('.sock')) continue
    if (statSync(path).isDirectory()) found.push(...filesBelow(path))
    else if (name.endsWith('.log') || path.includes('/redis/')) found.push(path)
  }
  return found
}

async function tables(world: World): Promise<{ name: string; text: string }[]> {
  const names = await world.rows<{ table_name: string }>('store', `select table_name from information_schema.tables where table_schema = 'curfew'`)
  const sinks = []
  for (const { table_name: name } of names) {
    const rows = await world.rows<{ row: string }>('store', `select t::text as row from curfew."${name}" t`)
    sinks.push({ name: `table ${name}`, text: rows.map(r => r.row).join('\n') })
  }
  return sinks
}
