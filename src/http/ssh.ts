/** Owns the list of revoked keys that hosts fetch for their sshd (docs/ssh.md): anybody may, for it holds ids alone. */
import type { Express } from 'express'
import { z } from 'zod'
import type { RevokedKeys } from '../broker/revoked-keys.js'
import { type Doors, route } from './route.js'

const TYPE = 'application/octet-stream'
/** Whoever asks often costs one look at the store a second. Milliseconds. */
const KEPT_MS = 1_000

export function sshRoutes(app: Express, doors: Doors): void {
  let kept: { readonly until: number; readonly list: Promise<RevokedKeys> } | null = null

  function revokedKeys(): Promise<RevokedKeys> {
    if (kept && performance.now() < kept.until) return kept.list
    const list = doors.broker.revokedKeys()
    const mine = { until: performance.now() + KEPT_MS, list }
    kept = mine
    // A failure is nobody else's answer.
    list.catch(() => {
      if (kept === mine) kept = null
    })
    return list
  }

  route(app, doors, {
    method: 'get',
    path: '/v1/ssh/krl',
    who: 'public',
    summary: 'Revoked SSH certificates',
    description:
      'A key revocation list of OpenSSH, for `RevokedKeys`: the key ids of certificates that were revoked before their end, whichever authority signed them.',
    headers: { 'If-None-Match': z.string().max(1_024).optional() },
    successes: {
      200: { text: [TYPE], headers: { ETag: z.string(), 'Cache-Control': z.string() } },
      304: { what: 'It names the same as the one that the caller has.', headers: { ETag: z.string(), 'Cache-Control': z.string() } },
    },
    answer: async ({ headers }) => {
      const { list, tag } = await revokedKeys()
      // Weak (RFC 9110 section 8.8.1): two that name the same differ in when they were written.
      const common = { ETag: `W/"${tag}"`, 'Cache-Control': 'no-cache' }
      const given = headers['If-None-Match']
      if (given !== undefined && (given.trim() === '*' || given.split(',').some(t => t.trim().replace(/^W\//, '') === `"${tag}"`)))
        return { status: 304, headers: common }
      return { status: 200, headers: { ...common, 'Content-Type': TYPE }, stream: res => void res.end(list) }
    },
  })
}
