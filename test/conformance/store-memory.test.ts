/** Every suite of the store over plain maps. */
import { memoryStore } from '../../src/store/memory.js'
import { testBatches } from './store/batches.js'
import { testBundles } from './store/bundles.js'
import { testCredentials } from './store/credentials.js'
import { testDelegation } from './store/delegation.js'
import { sealed } from './store/fixtures.js'
import { testGuards } from './store/guards.js'
import { testRecords } from './store/records.js'
import { testResponders } from './store/responders.js'
import { testRevocations } from './store/revocations.js'
import { testRuns } from './store/runs.js'
import { testTasks } from './store/tasks.js'
import { testWalk } from './store/walk.js'

const make = async () => {
  let ahead = 0
  const store = memoryStore({ now: () => new Date(Date.now() + ahead), sealDigest: sealed })
  return {
    store,
    async advance(seconds: number) {
      ahead += seconds * 1000
    },
  }
}
testTasks('memory', make)
testCredentials('memory', make)
testBatches('memory', make)
testBundles('memory', make)
testRevocations('memory', make)
testRuns('memory', make)
testGuards('memory', make)
testResponders('memory', make)
testDelegation('memory', make)
testRecords('memory', make)
testWalk('memory', make, 300)
