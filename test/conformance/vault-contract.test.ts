/** The fake Vault answers as the real one does, as far as our code looks; test/integration/vault.test.ts asks the real one the same. */
import { fakeVault } from '../fake-vault.js'
import { testVaultContract } from './vault-contract.js'

testVaultContract('the fake Vault', async () => {
  const vault = await fakeVault()
  return {
    address: vault.address,
    root: vault.root,
    async login(role) {
      const body = JSON.stringify({ role_id: `curfew-${role}`, secret_id: `secret-of-${role}` })
      const answer = await fetch(`${vault.address}/v1/auth/approle/login`, { method: 'POST', body })
      return ((await answer.json()) as { auth: { client_token: string } }).auth.client_token
    },
    user: async name => vault.users.has(name),
    target: async up => vault.target(up),
    close: () => vault.close(),
  }
})
