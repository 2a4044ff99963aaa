/** Owns the breaking of our own guards, so that a fault run can be shown to find what it looks for; reached through the armed failpoints alone. */
import pg from 'pg'

interface Breakage {
  readonly statement: RegExp
  /** What must stand in it, and what stands there instead. */
  readonly guard: RegExp
  readonly instead: string
}

export const BREAKS: Readonly<Record<string, readonly Breakage[]>> = {
  /** `settle` no longer asks whether the row is still the one that was intended; the trigger and the constraint that would stop it are off in the store of such a run. */
  'version-fence': [
    {
      statement: /set state = 'active'/,
      guard: / and made\.version = c\.version\s+where \(c\.state \|\| ''\) in \('pending'\) and c\.deadline_at > \(select curfew\.now\(\)\)/,
      instead: '',
    },
  ],
  /** A mark that stands already is not seen, and is met like one's own. */
  'single-use': [
    { statement: /^select holder from curfew\.marks/, guard: /namespace = \$1/, instead: 'namespace = $1 and false' },
    { statement: /^insert into curfew\.marks/, guard: / where m\.holder = excluded\.holder/, instead: '' },
  ],
}

export function breakGuard(name: string): void {
  const breakages = BREAKS[name]
  if (!breakages) throw new Error(`there is no guard called ${name}`)
  const { prototype } = pg.Client as unknown as { prototype: { query: (config: unknown, ...more: unknown[]) => unknown } }
  const plain = prototype.query
  const unguarded = (text: string) =>
    breakages.reduce((sql, { statement, guard, instead }) => {
      if (!statement.test(sql)) return sql
      if (!guard.test(sql)) throw new Error(`a statement has no guard of the known form: say in test/faults/broken.ts how to break ${name}`)
      return sql.replace(guard, instead)
    }, text)
  prototype.query = function (config, ...more) {
    if (typeof config === 'string') return plain.call(this, unguarded(config), ...more)
    const asked = config as { text?: unknown } | null
    if (asked && typeof asked.text === 'string') asked.text = unguarded(asked.text)
    return plain.call(this, config, ...more)
  }
}
