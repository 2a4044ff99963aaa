/** The engines' suite over users in memory, and over the fake Vault with a fake target; test/integration/vault.test.ts runs it over the real ones. */
import { createVault } from '../../src/clients/vault.js'
import { Secret } from '../../src/domain/secret.js'
import { memoryEngine } from '../../src/engines/memory.js'
import { DATABASE_PARAMETERS, vaultDatabaseEngine } from '../../src/engines/vault-database.js'
import { vaultTokenEngine } from '../../src/engines/vault-token.js'
import { fakeVault } from '../fake-vault.js'
import { byUser, testEngine } from './engines.js'

const now = () => new Date()
const quiet = { log: { warn: () => {} } }
const identity = (name: string) => ({ method: 'approle' as const, mount: 'approle', roleId: `curfew-${name}`, secretId: Secret.token(`secret-of-${name}`) })

testEngine('memory', 'backend', async () => {
  const engine = memoryEngine()
  return {
    engine,
    parameters: {},
    now,
    ...byUser,
    usable: async fields => engine.login(fields.PGUSER as string, fields.PGPASSWORD as string),
    async break() {
      engine.breakStep('destroy', 'throw')
      engine.breakStep('probe', 'throw')
    },
    heal: async () => engine.mend(),
    close: async () => {},
  }
})

testEngine('vault-database over the fake Vault', 'backend', async () => {
  const vault = await fakeVault()
  const config = { address: vault.address, tokenRole: 'curfew', issuer: identity('issuer'), revoker: identity('revoker') }
  const [issuer, revoker] = [createVault(config, 'issuer', quiet), createVault(config, 'revoker', quiet)]
  const parameters = { role: 'orders-ro', policy: 'curfew-cap-orders-ro', connection: { host: 'db.example', database: 'orders' } }
  return {
    engine: vaultDatabaseEngine({
      issuer,
      revoker,
      clock: { now },
      targetOf: () => null,
      parametersOf: () => DATABASE_PARAMETERS.parse(parameters),
      issuanceTokenSeconds: 90,
      clearSince: () => null,
    }),
    parameters,
    now,
    ...byUser,
    usable: async fields => vault.users.get(fields.PGUSER as string)?.password === fields.PGPASSWORD,
    break: async () => vault.target(false),
    heal: async () => vault.target(true),
    async close() {
      await Promise.all([issuer.close(), revoker.close()])
      await vault.close()
    },
  }
})

testEngine('vault-token over the fake Vault', 'backend', async () => {
  const vault = await fakeVault()
  const config = { address: vault.address, tokenRole: 'curfew', issuer: identity('issuer'), revoker: identity('revoker') }
  const [issuer, revoker] = [createVault(config, 'issuer', quiet), createVault(config, 'revoker', quiet)]
  const parameters = { policy: 'curfew-cap-orders-ro' }
  return {
    engine: vaultTokenEngine({
      issuer,
      revoker,
      clock: { now },
      address: vault.address,
      namespace: null,
      parametersOf: () => parameters,
      issuanceTokenSeconds: 90,
    }),
    parameters,
    now,
    async usable(fields) {
      const answer = await fetch(`${fields.VAULT_ADDR}/v1/database/creds/orders-ro`, { headers: { 'X-Vault-Token': fields.VAULT_TOKEN as string } })
      return answer.status === 200
    },
    attribution: fields => vault.tokens.get(fields.VAULT_TOKEN as string)?.displayName ?? '',
    secrets: fields => [fields.VAULT_TOKEN as string],
    break: async () => vault.misbehave(/(revoke|lookup)-accessor/, { status: 500 }, 9),
    heal: async () => vault.behave(),
    async close() {
      await Promise.all([issuer.close(), revoker.close()])
      await vault.close()
    },
  }
})
