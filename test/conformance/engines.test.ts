/** The engines' suite over users in memory, and over the fake Vault with a fake target; test/integration/vault.test.ts runs it over the real ones. */
import { createVault } from '../../src/clients/vault.js'
import { Secret } from '../../src/domain/secret.js'
import { memoryEngine } from '../../src/engines/memory.js'
import { DATABASE_PARAMETERS, vaultDatabaseEngine } from '../../src/engines/vault-database.js'
import { fakeVault } from '../fake-vault.js'
import { testEngine } from './engines.js'

const now = () => new Date()

testEngine('memory', async () => {
  const engine = memoryEngine()
  return {
    engine,
    parameters: {},
    now,
    usable: async fields => engine.login(fields.PGUSER as string, fields.PGPASSWORD as string),
    async break() {
      engine.breakStep('destroy', 'throw')
      engine.breakStep('probe', 'throw')
    },
    heal: async () => engine.mend(),
    close: async () => {},
  }
})

testEngine('vault-database over the fake Vault', async () => {
  const vault = await fakeVault()
  const identity = (name: string) => ({ method: 'approle' as const, mount: 'approle', roleId: `curfew-${name}`, secretId: Secret.token(`secret-of-${name}`) })
  const config = { address: vault.address, tokenRole: 'curfew', issuer: identity('issuer'), revoker: identity('revoker') }
  const quiet = { log: { warn: () => {} } }
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
    usable: async fields => vault.users.get(fields.PGUSER as string)?.password === fields.PGPASSWORD,
    break: async () => vault.target(false),
    heal: async () => vault.target(true),
    async close() {
      await Promise.all([issuer.close(), revoker.close()])
      await vault.close()
    },
  }
})
