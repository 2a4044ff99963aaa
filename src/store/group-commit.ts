/** Owns committing many issues at once: one transaction a tick, each member passing or refused by itself. */
import type { Credential } from '../domain/credential.js'
import { CurfewError } from '../domain/errors.js'
import { issueTogether, type Recording } from './credentials.js'
import { issueAll, type Member, type Outcome, type Rooms } from './issue.js'
import { type Sql, sqlState } from './sql.js'

/** The longest that the first of a batch waits for company. One flush to disk then pays for all (security.md 3.3). */
const TICK_MS = 2
/** Larger batches hold their locks longer than they save. */
const LARGEST = 128
/** Batches in flight: while one waits for the disk, the next is judged. */
const IN_FLIGHT = 3

interface Waiting {
  readonly member: Member
  readonly pass: (credentials: readonly Credential[]) => void
  readonly refuse: (reason: unknown) => void
}

export const groupCommit: Recording = (sql, rooms) => {
  let queue: Waiting[] = []
  let timer: NodeJS.Timeout | undefined
  let flying = 0

  const flush = () => {
    clearTimeout(timer)
    timer = undefined
    while (queue.length > 0 && flying < IN_FLIGHT) {
      const batch = queue.slice(0, LARGEST)
      queue = queue.slice(LARGEST)
      flying++
      void commit(sql, rooms, batch).finally(() => {
        flying--
        // Whoever came while all were in flight has waited long enough.
        if (queue.length > 0) flush()
      })
    }
  }

  return member => {
    // A key's earlier credential is closed in the same transaction: that one comes alone.
    if (member.options.idempotency) return issueTogether(sql, member, rooms)
    return new Promise((pass, refuse) => {
      queue.push({ member, pass, refuse })
      if (queue.length >= LARGEST) flush()
      else timer ??= setTimeout(flush, flying === 0 ? 0 : TICK_MS)
    })
  }
}

/**
 * One transaction for the batch. When it fails because its database refused it, its halves are tried, down to single members, so that
 * no member fails for another's sake; when nobody knows whether it was committed, all are told so, and nothing is repeated.
 */
async function commit(sql: Sql, rooms: Rooms, batch: readonly Waiting[]): Promise<void> {
  const members = batch.map(w => w.member)
  let outcomes: readonly Outcome[]
  try {
    outcomes = await sql.tx(tx => issueAll(tx, members, rooms), 'shared')
  } catch (error) {
    if (batch.length === 1 || !refusedByDatabase(error)) {
      for (const w of batch) w.refuse(error)
      return
    }
    const half = Math.ceil(batch.length / 2)
    await commit(sql, rooms, batch.slice(0, half))
    await commit(sql, rooms, batch.slice(half))
    return
  }
  batch.forEach((w, i) => {
    const outcome = outcomes[i] as Outcome
    if ('refusal' in outcome) w.refuse(outcome.refusal)
    else w.pass(outcome.credentials)
  })
}

/** A collision that outlasted all repeats, or something that one member brought and no database takes: rolled back for certain. */
function refusedByDatabase(error: unknown): boolean {
  return error instanceof CurfewError && /^(22|23|40)/.test(sqlState(error.cause) ?? '')
}
