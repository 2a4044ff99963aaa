/** Owns how issued credentials reach the child of `curfew run`: by its environment only, never by arguments or files. */
import { usage } from './exit.js'
import type { Held, Issued } from './holder.js'

type Env = Readonly<Record<string, string | undefined>>

/** What libpq would mix with ours: a host address or a service of the caller's would send the password somewhere else. */
const LIBPQ = ['PGHOST', 'PGHOSTADDR', 'PGPORT', 'PGDATABASE', 'PGUSER', 'PGPASSWORD', 'PGPASSFILE', 'PGSERVICE', 'PGSERVICEFILE', 'PGAPPNAME']
/** The child gets what the task was granted, not what the task was opened with. */
const OURS = ['CURFEW_ID_TOKEN', 'CURFEW_OPERATOR_TOKEN', 'CURFEW_SIGNAL_SECRET']

/** db/orders-ro → DB_ORDERS_RO */
export function suffixOf(capability: string): string {
  return capability.toUpperCase().replace(/[^A-Z0-9]/g, '_')
}

/** Two capabilities whose variables would have one name cannot be told apart by the child. */
export function refuseCollisions(capabilities: readonly string[]): void {
  const seen = new Map<string, string>()
  for (const capability of capabilities) {
    const other = seen.get(suffixOf(capability))
    if (other === capability) throw usage(`${capability} is named twice`)
    if (other !== undefined) throw usage(`${other} and ${capability} would have the same variables`, 'run them one inside the other')
    seen.set(suffixOf(capability), capability)
  }
}

/** `token` → `CURFEW_TOKEN`; what is a variable already stays: `PGUSER`. */
const variableOf = (field: string) => (/^[a-z_]+$/.test(field) ? `CURFEW_${field.toUpperCase()}` : field)

/**
 * Every field as `<NAME>_<CAPABILITY>`, and the fields of a credential by their plain names as well, unless one before it has taken any of
 * them: the user of one database and the host of another would be nobody's. `CURFEW_TASK` and `CURFEW_CREDENTIAL` say where the child is.
 */
export function childEnv(
  env: Env,
  held: Held,
  issued: readonly Issued[],
  options: { readonly evidenceEnv?: string | undefined; readonly proofKey: boolean },
): Env {
  const given: Record<string, string> = {}
  for (const { credential, secret } of issued) {
    const suffix = suffixOf(credential.capability)
    const fields = Object.entries(secret).map(([name, value]) => [variableOf(name), value] as const)
    const isFirst = fields.every(([name]) => given[name] === undefined)
    for (const [name, value] of [['CURFEW_CREDENTIAL', credential.id] as const, ...fields]) {
      if (given[`${name}_${suffix}`] !== undefined) throw usage(`two variables would be called ${name}_${suffix}`, 'run one command inside the other')
      given[`${name}_${suffix}`] = value
    }
    if (isFirst) Object.assign(given, Object.fromEntries(fields))
    given.CURFEW_CREDENTIAL ??= credential.id
  }
  const removed = new Set([
    ...OURS,
    ...('PGHOST' in given || 'PGUSER' in given ? LIBPQ : []),
    ...(options.evidenceEnv === undefined ? [] : [options.evidenceEnv]),
  ])
  return {
    ...Object.fromEntries(Object.entries(env).filter(([name]) => !removed.has(name))),
    ...given,
    CURFEW_TASK: held.task.id,
    ...(options.proofKey ? { CURFEW_PROOF_KEY: JSON.stringify(held.key.exportPrivate()) } : {}),
  }
}
