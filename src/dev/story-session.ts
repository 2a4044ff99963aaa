/** Owns the database session of the demo's job: as a thief would keep it, to see that it is cut. */
import pg from 'pg'

/** Past this, nobody comes to cut it. Milliseconds. */
const CUT_MS = 10_000

/** As the holder would: logs in, reads, takes the reader's role (which outlives a dropped one), and stays connected. */
export async function openSession(secret: Record<string, string>): Promise<{ rows: number; cut: Promise<void> }> {
  const client = new pg.Client({
    host: secret.PGHOST,
    port: Number(secret.PGPORT),
    database: secret.PGDATABASE,
    user: secret.PGUSER,
    password: secret.PGPASSWORD,
    application_name: secret.PGAPPNAME,
  })
  client.on('error', () => {})
  await client.connect()
  const { rows } = await client.query<{ n: number }>('select count(*)::int as n from orders')
  await client.query('set role app_ro')
  const cut = new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('the open session was not cut')), CUT_MS)
    client.once('end', () => {
      clearTimeout(timer)
      resolve()
    })
  })
  return { rows: rows[0]?.n ?? 0, cut }
}
