/** Owns the demo API as a process of its own: what it serves stands in a file that only its owner reads. */
import { readFileSync } from 'node:fs'
import { type OrdersOptions, startOrdersApi } from './orders-api.js'

const options = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8')) as OrdersOptions
const api = await startOrdersApi(options)
for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => void api.close().then(() => process.exit(0)))
