/** The signers' suite: sealed and transit, over plain maps and over PostgreSQL inside this process; test/integration/transit.test.ts runs it over the real Vault. */
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll } from 'vitest'
import { Secret } from '../../src/domain/secret.js'
import { masterKeyWrapper } from '../../src/signers/sealed.js'
import { transitWrapper } from '../../src/signers/transit.js'
import { memoryStore } from '../../src/store/memory.js'
import { localTransit } from '../local-transit.js'
import { testSigner } from './signers.js'
import { type MakeStore, sealed } from './store/fixtures.js'
import { pgliteHouse, type SqlHouse } from './store/houses.js'

let house: SqlHouse
beforeAll(async () => {
  house = await pgliteHouse()
})
afterAll(() => house?.close())

const inMemory: MakeStore = async () => {
  let ahead = 0
  const store = memoryStore({ now: () => new Date(Date.now() + ahead), sealDigest: sealed })
  return {
    store,
    async advance(seconds) {
      ahead += seconds * 1000
    },
  }
}
const masterKey = async () => masterKeyWrapper(Secret.token(randomBytes(32).toString('base64')))
const transit = async () => transitWrapper(localTransit())

testSigner('sealed, in memory', masterKey, inMemory)
testSigner('sealed, in PGlite', masterKey, () => house.make())
testSigner('transit, in memory', transit, inMemory)
testSigner('transit, in PGlite', transit, () => house.make())
