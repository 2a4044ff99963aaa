#!/usr/bin/env node
// Owns `npm run real`: builds Vault and SPIRE when they are missing; with up, down or env it then runs them. Node alone, no dependency.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { main as build, missing } from '../test/real/build.mjs'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const UP = join(ROOT, 'dist', 'test', 'real', 'up.js')
const args = process.argv.slice(2)
const node = (...words) => spawnSync(process.execPath, words, { cwd: ROOT, stdio: 'inherit' }).status ?? 1

/** Ending what runs must not wait for a compiler, as long as there is something compiled. */
const needsAll = args[0] === 'up' || !existsSync(UP)

async function real() {
  if (args.length === 0) {
    const wanted = missing()
    const code = await build()
    if (code === 0 && wanted.length === 0) process.stderr.write('real     Vault and SPIRE are built\n')
    return code
  }
  if (args[0] === 'up') {
    const code = await build()
    if (code !== 0) return code
  }
  if (needsAll) {
    const setup = join(ROOT, 'scripts', 'setup.mjs')
    const code = existsSync(setup) ? node(setup, '--quiet') : node(join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', 'tsconfig.json')
    if (code !== 0) return code
  }
  return node(UP, ...args)
}

process.exitCode = await real()
