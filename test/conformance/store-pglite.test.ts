/** Every suite of the store over PostgreSQL inside this process. */
import { afterAll, beforeAll } from 'vitest'
import { testCredentials } from './store/credentials.js'
import { type SqlHouse, pgliteHouse } from './store/houses.js'
import { testRevocations } from './store/revocations.js'
import { testTasks } from './store/tasks.js'

let house: SqlHouse
beforeAll(async () => {
  house = await pgliteHouse()
})
afterAll(() => house?.close())

const make = () => house.make()
testTasks('PGlite', make)
testCredentials('PGlite', make)
testRevocations('PGlite', make)
