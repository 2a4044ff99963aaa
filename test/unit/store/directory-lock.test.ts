/** The exclusive lock on the data directory of the embedded database. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { lockDirectory } from '../../../src/store/directory-lock.js'

let dir: string
let child: ChildProcess | null = null
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'curfew-lock-'))
})
afterEach(async () => {
  if (child?.exitCode === null && child.signalCode === null) {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  child = null
  rmSync(dir, { recursive: true, force: true })
})

const path = () => join(dir, 'lock')
const mine = () => JSON.parse(readFileSync(path(), 'utf8'))

/** A lock as another process of this machine would have left it. */
async function lockedByAnother(): Promise<ChildProcess> {
  const unlock = await lockDirectory(dir)
  const own = mine()
  unlock()
  child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'])
  await once(child, 'spawn')
  const stat = readFileSync(`/proc/${child.pid}/stat`, 'utf8')
  writeFileSync(path(), JSON.stringify({ ...own, pid: child.pid, started: stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19], nonce: 'another' }))
  return child
}

describe('the lock of a data directory (F37)', () => {
  it('is held by one, given back, and taken again; nothing else is left beside it', async () => {
    const unlock = await lockDirectory(dir)
    expect(readdirSync(dir)).toEqual(['lock'])
    await expect(lockDirectory(dir)).rejects.toMatchObject({ code: 'unavailable', facts: { reason: 'store_locked' } })
    unlock()
    expect(readdirSync(dir)).toEqual([])
    unlock()
    const again = await lockDirectory(dir)
    again()
  })

  it('refuses while another living process holds it, by its number, and takes over once that was killed', async () => {
    const other = await lockedByAnother()
    await expect(lockDirectory(dir)).rejects.toThrow(new RegExp(`process ${other.pid} has opened it.*embedded mode is for one process`))
    other.kill('SIGKILL')
    await once(other, 'exit')
    const unlock = await lockDirectory(dir)
    expect(mine().pid).toBe(process.pid)
    unlock()
  })

  it('is not fooled by a number that was given to another process since', async () => {
    const other = await lockedByAnother()
    writeFileSync(path(), JSON.stringify({ ...mine(), pid: other.pid, started: '1' }))
    const unlock = await lockDirectory(dir)
    unlock()
  })

  it('does not judge the processes of another container, and takes over after a restart of the machine', async () => {
    const own = await lockDirectory(dir).then(unlock => {
      const owner = mine()
      unlock()
      return owner
    })
    writeFileSync(path(), JSON.stringify({ ...own, space: 'another', nonce: 'n' }))
    await expect(lockDirectory(dir)).rejects.toThrow(/another container or host/)
    writeFileSync(path(), JSON.stringify({ ...own, host: 'another', boot: 'another', space: 'another', nonce: 'n' }))
    await expect(lockDirectory(dir)).rejects.toThrow(/another container or host/)
    writeFileSync(path(), JSON.stringify({ ...own, host: hostname(), boot: 'an earlier one', space: 'an earlier one', nonce: 'n' }))
    const unlock = await lockDirectory(dir)
    unlock()
  })

  it('leaves an unreadable lock to a person, and says which file it is', async () => {
    for (const content of ['', '{', '[]', '{"pid":"1"}']) {
      writeFileSync(path(), content)
      const failure = await lockDirectory(dir).catch(error => error)
      expect(failure).toMatchObject({ code: 'unavailable', facts: { reason: 'store_locked' } })
      expect(failure.facts.next).toContain(path())
    }
  })

  it('has one winner when many find the same dead lock at once', async () => {
    for (let round = 0; round < 10; round++) {
      const other = await lockedByAnother()
      other.kill('SIGKILL')
      await once(other, 'exit')
      const results = await Promise.allSettled(Array.from({ length: 12 }, () => lockDirectory(dir)))
      const winners = results.filter(r => r.status === 'fulfilled')
      expect(winners).toHaveLength(1)
      expect(readdirSync(dir)).toEqual(['lock'])
      winners[0]?.value()
    }
  })
})
