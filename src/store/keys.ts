/** Owns signing keys at rest: sealed by their signer, opaque here. */
import type { KeyStore } from '../ports.js'
import { writeAudit } from './audit.js'
import { keyEvent } from './events.js'
import { toKey } from './rows.js'
import type { Sql } from './sql.js'

export function keyStore(sql: Sql): KeyStore {
  return {
    async list() {
      return (await sql.query('select * from curfew.signing_keys order by created_at, kid')).map(toKey)
    },
    add: (key, context) =>
      sql.tx(async tx => {
        // Of two processes that begin at once, one inserts; the other reads what it inserted.
        const [row] = await tx.query(
          `insert into curfew.signing_keys (kid, class, alg, public_jwk, sealed, state, created_at, activates_at)
           values ($1, $2, $3, $4::jsonb, $5, $6, curfew.now(), curfew.now() + make_interval(secs => $7::double precision)) on conflict do nothing returning *`,
          [key.kid, key.keyClass, key.alg, JSON.stringify(key.publicJwk), key.sealed, key.state, key.activatesInSeconds],
        )
        if (row) {
          await writeAudit(tx, [keyEvent('key.created', key.kid, { class: key.keyClass, alg: key.alg, state: key.state }, context)])
          return toKey(row)
        }
        const [met] = await tx.query(
          'select * from curfew.signing_keys where kid = $4 or (class = $1 and alg = $2 and state = $3) order by kid = $4 desc limit 1',
          [key.keyClass, key.alg, key.state, key.kid],
        )
        return toKey(met as Record<string, unknown>)
      }),
    promote: (kid, retainSeconds, context) =>
      sql.tx(async tx => {
        const [next] = await tx.query<{ class: string; alg: string; due: boolean }>(
          `select class, alg, activates_at <= curfew.now() as due from curfew.signing_keys where kid = $1 and state = 'next' for update`,
          [kid],
        )
        // Another replica promoted it, or it has not been published for long enough.
        if (!next?.due) return
        const retired = await tx.query<{ kid: string }>(
          `update curfew.signing_keys set state = 'retired', retires_at = curfew.now() + make_interval(secs => $3::double precision)
           where class = $1 and alg = $2 and state = 'current' returning kid`,
          [next.class, next.alg, retainSeconds],
        )
        await tx.query(`update curfew.signing_keys set state = 'current' where kid = $1`, [kid])
        await writeAudit(tx, [...retired.map(r => keyEvent('key.retired', r.kid, { by: kid }, context)), keyEvent('key.activated', kid, {}, context)])
      }),
  }
}
