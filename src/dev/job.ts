/** Owns the demo job: reads the orders every second with the token it was handed, until it is refused. */
import { setting } from './find.js'
import { call } from './workload.js'

const url = process.argv[2]
const token = setting('CURFEW_TOKEN')
if (!url || !token) {
  process.stderr.write('usage: curfew run demo/orders-bearer -- node job.js <url>\n')
  process.exit(2)
}
for (;;) {
  const { status, body } = await call('GET', url, { headers: { authorization: `Bearer ${token}` } })
  process.stdout.write(`${new Date(Date.now()).toISOString()}  ${status}  ${status === 200 ? `${body.orders.length} orders` : body.error_description}\n`)
  if (status !== 200) break
  await new Promise(resolve => setTimeout(resolve, 1_000))
}
