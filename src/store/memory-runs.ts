/** Owns runs that are over in memory. */
import type { EndedRun } from '../domain/run.js'
import { attemptOf, isAttempt } from '../domain/run.js'
import type { RunStore } from '../ports.js'
import { runKey } from './admission.js'
import { TOMBSTONE_SECONDS } from './closing.js'
import { runEnded } from './events.js'
import { after, consume, refuseUnstorable, type State, type TaskRow, write } from './memory-state.js'

export function memoryRuns(state: State): RunStore {
  const openOf = ({ issuerId, run }: EndedRun) => {
    const isOf = ({ state: s, attestation: a }: TaskRow) =>
      s === 'open' && a.issuerId === issuerId && a.run !== null && (isAttempt(run) ? attemptOf(a.run) : a.run) === run
    const hit = new Map([...state.tasks].filter(([, t]) => isOf(t)))
    return [...hit.values()]
      .filter(t => !t.ancestors.some(a => hit.has(a)))
      .map(t => t.id)
      .sort()
  }
  return {
    async end(run, marks, context) {
      refuseUnstorable(run)
      consume(state, marks)
      const key = runKey(run.issuerId, run.run)
      const left = openOf(run).length > 0
      state.tombstones.set(key, after(state.now(), TOMBSTONE_SECONDS))
      if (left && !state.ending.has(key)) state.ending.set(key, structuredClone(run))
      write(state, [runEnded(run, left, context)])
    },
    due: async limit =>
      [...state.ending]
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .slice(0, limit)
        .map(([, run]) => run),
    open: async run => openOf(run),
    async settled(run) {
      state.ending.delete(runKey(run.issuerId, run.run))
    },
  }
}
