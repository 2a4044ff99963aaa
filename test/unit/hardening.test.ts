/** Owns what a hardened process can no longer be talked into. Each file of tests is a process of its own, so that this one may be hardened. */
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { url } from 'node:inspector'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import express from 'express'
import { expect, test } from 'vitest'
import { harden } from '../../src/hardening.js'

const umask = process.umask()

test('H20: before hardening a polluted prototype reaches every object; afterwards nothing can be added', () => {
  const target = Object.prototype as Record<string, unknown>
  target.polluted = 'yes'
  expect(({} as Record<string, unknown>).polluted).toBe('yes')
  delete target.polluted

  harden()
  harden()
  expect(() => {
    target.polluted = 'yes'
  }).toThrow(TypeError)
  expect(({} as Record<string, unknown>).polluted).toBeUndefined()
  for (const prototype of [Array.prototype, Function.prototype, String.prototype, Map.prototype, Promise.prototype])
    expect(Object.isExtensible(prototype)).toBe(false)
})

test('H20: `__proto__` is no door any more: neither by assignment nor by a merge of parsed JSON', () => {
  const merged = Object.assign({}, JSON.parse('{"__proto__":{"admin":true},"constructor":{"prototype":{"admin":true}}}'))
  expect(merged.admin).toBeUndefined()
  expect(({} as Record<string, unknown>).admin).toBeUndefined()
  const one = {} as Record<string, unknown>
  Reflect.set(one, '__proto__', { admin: true })
  expect(one.admin).toBeUndefined()
  expect(Object.getPrototypeOf(one)).toBe(Object.prototype)
})

test('the twin: objects, classes and a server still work', async () => {
  class Thing {
    constructor(readonly name: string) {}
  }
  expect(Object.assign(new Thing('a'), { more: 1 })).toEqual({ name: 'a', more: 1 })
  const app = express().use(express.json())
  app.post('/', (req, res) => void res.json({ got: req.body, query: req.query }))
  const server = app.listen(0)
  try {
    const { port } = server.address() as { port: number }
    const answer = await fetch(`http://127.0.0.1:${port}/?a=1`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"b":2}' })
    expect(await answer.json()).toEqual({ got: { b: 2 }, query: { a: '1' } })
  } finally {
    server.close()
  }
})

test('K12: SIGUSR1 opens no inspector', async () => {
  expect(url()).toBeUndefined()
  process.kill(process.pid, 'SIGUSR1')
  await new Promise(resolve => setTimeout(resolve, 300))
  expect(url()).toBeUndefined()
  await expect(fetch('http://127.0.0.1:9229/json/version', { signal: AbortSignal.timeout(1_000) })).rejects.toThrow()
})

test('K12, the twin: without a handler of ours the same signal opens it', async () => {
  const script = (claim: string) =>
    `${claim};setTimeout(()=>{console.log(String(require('inspector').url()).slice(0,5));process.exit()},300);process.kill(process.pid,'SIGUSR1')`
  const ask = async (claim: string) => (await promisify(execFile)(process.execPath, ['--inspect-port=0', '-e', script(claim)])).stdout.trim()
  expect(await ask('')).toBe('ws://')
  expect(await ask("process.on('SIGUSR1',()=>{})")).toBe('undef')
})

test('K6: no crash report is written, and files are for us alone', () => {
  expect([process.report.reportOnFatalError, process.report.reportOnSignal, process.report.reportOnUncaughtException]).toEqual([false, false, false])
  const dir = mkdtempSync(join(tmpdir(), 'curfew-umask-'))
  try {
    writeFileSync(join(dir, 'key'), 'x')
    expect(statSync(join(dir, 'key')).mode & 0o077).toBe(0)
  } finally {
    rmSync(dir, { recursive: true })
    process.umask(umask)
  }
})
