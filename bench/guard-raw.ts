/** Owns the measure of fan-out: server-sent events by node:http and nothing else. `POST` tells one event to all who follow. */
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export type Told = { readonly kind: 'listening'; readonly port: number }

const followers = new Set<ServerResponse>()
const all = (text: string) => {
  const bytes = Buffer.from(text)
  for (const res of followers) res.write(bytes)
}
let seq = 0
const server = createServer((req, res) => {
  if (req.method === 'POST') {
    seq++
    all(
      `id: ${seq}\nevent: revoked\ndata: {"seq":${seq},"entries":[{"kind":"credential","key":"crd_01m0k3y0000000000000","until":"2030-01-01T00:00:00.000Z"}]}\n\n`,
    )
    res.statusCode = 204
    res.end()
    return
  }
  res.writeHead(200, { 'Content-Type': 'text/event-stream' })
  res.write(`id: ${seq}\nevent: ready\ndata: {"seq":${seq}}\n\n`)
  followers.add(res)
  res.on('close', () => followers.delete(res))
})
setInterval(() => all(`event: beat\ndata: {"seq":${seq},"stale_ms":0}\n\n`), 1_000)
server.listen(0, '127.0.0.1', 4_096, () => process.send?.({ kind: 'listening', port: (server.address() as AddressInfo).port } satisfies Told))
process.on('disconnect', () => process.exit(0))
