/**
 * Owns the names by which statements are prepared, once a connection: planning those of a revocation anew takes as long as running them.
 * PostgreSQL goes on planning for the values at hand where it judges that to be the cheaper way.
 */

/** Texts that a filter puts together are many: beyond these, a statement is planned each time. */
const MOST = 256

export interface Names {
  /** Null when there are too many already. */
  of(text: string): string | null
  /** By other names every connection prepares its statements again. Does nothing when that was done since `name` was given. */
  renew(text: string, name: string): void
}

export function statementNames(): Names {
  const known = new Map<string, string>()
  let made = 0
  return {
    of(text) {
      const name = known.get(text)
      if (name !== undefined) return name
      if (known.size >= MOST) return null
      known.set(text, `curfew_${++made}`)
      return `curfew_${made}`
    },
    renew(text, name) {
      if (known.get(text) === name) known.clear()
    },
  }
}
