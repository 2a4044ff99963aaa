/** Owns what a role at Vault must say, so that what it makes can be ended, and told from what others made: for the start of a broker and for `curfew doctor`. */

export interface RoleFault {
  /** One line for people. */
  readonly fault: string
  /** What of the role to set. */
  readonly fix: string
}

type Role = Readonly<Record<string, unknown>>

/** What of a capability a role must fit. */
export interface Demands {
  readonly engine: string
  readonly parameters: Readonly<Record<string, unknown>>
  readonly maxTtlSeconds: number
}

/** @param role what Vault answers to a read of it. */
export function faultsOfRole({ engine, parameters, maxTtlSeconds }: Demands, role: Role): readonly RoleFault[] {
  switch (engine) {
    case 'vault-database':
      return databaseFaults(role)
    case 'vault-pki':
      return certificateFaults(role, parameters.key !== undefined && parameters.key !== 'vault')
    case 'vault-ssh':
      return keyFaults(role, maxTtlSeconds)
    default:
      return []
  }
}

/** Vault's own default leaves the open session alive, which after one SET ROLE goes on reading (architecture.md section 6). */
function databaseFaults(role: Role): RoleFault[] {
  const statements = Array.isArray(role.revocation_statements) ? role.revocation_statements.filter(s => typeof s === 'string') : []
  const text = statements.join('\n').toLowerCase()
  const fix = 'revocation_statements=@config/vault/revoke.sql'
  if (text.trim() === '') return [{ fault: 'uses default revocation statements: open sessions survive', fix }]
  return text.includes('pg_terminate_backend') ? [] : [{ fault: 'does not terminate open sessions', fix }]
}

function certificateFaults(role: Role, callersKey: boolean): RoleFault[] {
  const faults: RoleFault[] = []
  if (role.generate_lease !== true) faults.push({ fault: 'makes certificates without a lease: nothing could end them', fix: 'generate_lease=true' })
  if (role.no_store === true) faults.push({ fault: 'does not keep what it made: no certificate of it can be revoked', fix: 'no_store=false' })
  // Vault's own default takes the names that the caller wrote.
  if (callersKey && role.use_csr_common_name !== false) faults.push({ fault: 'takes the common name of the request', fix: 'use_csr_common_name=false' })
  if (callersKey && role.use_csr_sans !== false) faults.push({ fault: 'takes the names of the request', fix: 'use_csr_sans=false' })
  return faults
}

/** As config/vault/setup.sh writes it: what a revocation list names (src/engines/vault-ssh.ts). */
const KEY_ID_FORMAT = 'curfew-{{token_display_name}}'

function keyFaults(role: Role, maxTtlSeconds: number): RoleFault[] {
  const faults: RoleFault[] = []
  if (role.key_id_format !== KEY_ID_FORMAT)
    faults.push({ fault: 'does not name the credential in the key id: no revocation list could', fix: `key_id_format='${KEY_ID_FORMAT}'` })
  if (role.allow_user_key_ids === true) faults.push({ fault: 'lets the caller choose the key id', fix: 'allow_user_key_ids=false' })
  if (role.allow_empty_principals === true) faults.push({ fault: 'makes certificates for every account', fix: 'allow_empty_principals=false' })
  const longest = Number(role.max_ttl ?? 0)
  // Other kinds are cut short; this one is refused.
  if (longest > 0 && longest < maxTtlSeconds)
    faults.push({
      fault: `signs for ${longest} s at most, and the capability allows ${maxTtlSeconds}: longer ones are refused`,
      fix: `max_ttl=${maxTtlSeconds}s`,
    })
  return faults
}
