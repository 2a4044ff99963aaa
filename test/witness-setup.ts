/** Owns that a test fails when an answer was not as it is described. */
import { afterEach, expect } from 'vitest'
import { lies } from './witness.js'

afterEach(() => expect(lies.splice(0), 'answers that are not as /openapi.json says').toEqual([]))
