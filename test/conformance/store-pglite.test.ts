/** Every suite of the store over PostgreSQL inside this process. */
import { afterAll, beforeAll } from 'vitest'
import { testBatches } from './store/batches.js'
import { testBundles } from './store/bundles.js'
import { testCredentials } from './store/credentials.js'
import { testDelegation } from './store/delegation.js'
import { testGuards } from './store/guards.js'
import { pgliteHouse, type SqlHouse } from './store/houses.js'
import { testRecords } from './store/records.js'
import { testResponders } from './store/responders.js'
import { testRevocations } from './store/revocations.js'
import { testRuns } from './store/runs.js'
import { testTasks } from './store/tasks.js'
import { testWalk } from './store/walk.js'

let house: SqlHouse
beforeAll(async () => {
  house = await pgliteHouse()
})
afterAll(() => house?.close())

const make = () => house.make()
testTasks('PGlite', make)
testCredentials('PGlite', make)
testBatches('PGlite', make)
testBundles('PGlite', make)
testRevocations('PGlite', make)
testRuns('PGlite', make)
testGuards('PGlite', make)
testResponders('PGlite', make)
testDelegation('PGlite', make)
testRecords('PGlite', make)
testWalk('PGlite', make, 20)
