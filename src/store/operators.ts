/** Owns operators at rest: of a token only the sealed digest. */
import { CurfewError } from '../domain/errors.js'
import type { OperatorStore } from '../ports.js'
import { writeAudit } from './audit.js'
import { operatorEvent } from './events.js'
import { toOperator } from './rows.js'
import type { Sql } from './sql.js'

export function operatorStore(sql: Sql): OperatorStore {
  return {
    add: (operator, tokenDigest, context) =>
      sql.tx(async tx => {
        const [row] = await tx.query(
          'insert into curfew.operators (id, name, role, token_digest, created_at) values ($1, $2, $3, $4, curfew.now()) on conflict do nothing returning *',
          [operator.id, operator.name, operator.role, tokenDigest],
        )
        if (!row) throw new CurfewError('conflict', 'an operator of that name exists', { reason: 'name_taken', field: 'name' })
        await writeAudit(tx, [operatorEvent('operator.added', operator.id, { name: operator.name, role: operator.role }, context)])
        return toOperator(row)
      }),
    async byToken(tokenDigest) {
      const [row] = await sql.query('select * from curfew.operators where token_digest = $1', [tokenDigest])
      return row ? toOperator(row) : null
    },
    async list() {
      return (await sql.query('select * from curfew.operators order by id')).map(toOperator)
    },
    disable: (id, context) =>
      sql.tx(async tx => {
        const [disabled] = await tx.query('update curfew.operators set disabled_at = curfew.now() where id = $1 and disabled_at is null returning *', [id])
        if (disabled) await writeAudit(tx, [operatorEvent('operator.disabled', id, {}, context)])
        const [row] = disabled ? [disabled] : await tx.query('select * from curfew.operators where id = $1', [id])
        if (!row) throw new CurfewError('not_found', 'no such operator', { reason: 'not_found', field: 'id' })
        return toOperator(row)
      }),
  }
}
