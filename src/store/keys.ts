/** Owns signing keys at rest: sealed by their signer, opaque here. */
import { CurfewError } from '../domain/errors.js'
import type { Context, KeyStore } from '../ports.js'
import { writeAudit } from './audit.js'
import { keyEvent } from './events.js'
import { toKey } from './rows.js'
import type { Sql, Tx } from './sql.js'

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
    promote: (kid, retainSeconds, context, { early = false } = {}) =>
      sql.tx(async tx => {
        const [next] = await tx.query<{ class: string; alg: string; due: boolean }>(
          `select class, alg, $2::boolean or activates_at <= curfew.now() as due from curfew.signing_keys where kid = $1 and state = 'next' for update`,
          [kid, early],
        )
        // Another replica promoted it, or it has not been published for long enough.
        if (!next?.due) return
        const retired = await tx.query<{ kid: string }>(
          `update curfew.signing_keys set state = 'retired', retires_at = curfew.now() + make_interval(secs => $3::double precision)
           where class = $1 and alg = $2 and state = 'current' returning kid`,
          [next.class, next.alg, retainSeconds],
        )
        await tx.query(`update curfew.signing_keys set state = 'current', activates_at = least(activates_at, curfew.now()) where kid = $1`, [kid])
        await writeAudit(tx, [...retired.map(r => keyEvent('key.retired', r.kid, { by: kid }, context)), keyEvent('key.activated', kid, {}, context)])
      }),
  }
}

/** One that signs has no successor yet: nothing of its kind could be issued any more. */
export const stillSigns = () =>
  new CurfewError('conflict', 'this key signs: another must take its place first', { reason: 'no_successor', field: 'key', next: 'curfew keys rotate' })
export const noSuchKey = () => new CurfewError('not_found', 'no such signing key', { reason: 'not_found', field: 'key', next: 'curfew keys list' })

/** In the transaction of the act that refuses what bears it. Its row stays: a name is never used for another key (K3). */
export async function withdrawKey(tx: Tx, kid: string, revocation: string, context: Context): Promise<void> {
  const [row] = await tx.query<{ state: string }>('select state from curfew.signing_keys where kid = $1 for update', [kid])
  if (!row) throw noSuchKey()
  if (row.state === 'current') throw stillSigns()
  await tx.query(`update curfew.signing_keys set state = 'retired', retires_at = least(retires_at, curfew.now()) where kid = $1`, [kid])
  await writeAudit(tx, [keyEvent('key.withdrawn', kid, { revocation }, context)])
}
