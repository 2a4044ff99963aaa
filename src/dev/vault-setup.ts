/** Owns the run of the shipped script over a Vault of ours, and what a configuration says of it afterwards. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { inherited, repository } from './find.js'
import type { Vault } from './vault.js'

const run = promisify(execFile)

/** @param settings of config/vault/setup.sh. Answers the `vault:` of a configuration; its secrets are files. */
export async function setUpVault(vault: Vault, dir: string, settings: Readonly<Record<string, string>>) {
  await run('sh', [join(repository(), 'config', 'vault', 'setup.sh')], {
    env: { ...inherited(), VAULT_ADDR: vault.address, VAULT_TOKEN: vault.rootToken, OUT: dir, ...settings },
    timeout: 60_000,
  })
  const identity = (name: string) => ({ method: 'approle', roleId: `curfew-${name}`, secretId: { file: join(dir, `vault-${name}-secret-id`) } })
  return { address: vault.address, issuer: identity('issuer'), revoker: identity('revoker'), reconciler: identity('reconciler') }
}
