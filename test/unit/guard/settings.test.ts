import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { createGuard, GUARD_CODES, type GuardOptions } from '../../../src/guard/guard.js'
import { importsOf } from '../../house-rules.js'

const good: GuardOptions = {
  issuer: 'https://curfew.test',
  audience: 'https://orders.test/',
  proof: 'required',
  guardKey: 'k',
  fetch: async () => new Response('', { status: 500 }),
}
const ask = { client: 'orders', secret: 's' }

describe('a guard that is told too little is not made', () => {
  test.each<[string, object, string]>([
    ['no issuer', { issuer: undefined }, 'issuer is required'],
    ['an empty issuer', { issuer: '' }, 'issuer is required'],
    ['plain http', { issuer: 'http://curfew.test' }, 'issuer must be https'],
    ['an issuer with a query', { issuer: 'https://curfew.test?x' }, 'plain URL'],
    ['no audience', { audience: undefined }, 'audience is required'],
    ['an audience of several', { audience: ['a', 'b'] }, 'audience is required'],
    ['no word about proofs', { proof: undefined }, 'proof is required'],
    ['neither key nor introspection', { guardKey: undefined }, 'guardKey or introspection is required'],
    ['nobody is asked, and a key', { revocation: null }, 'revocation is null'],
    ['introspect without knowing whom', { revocation: { whenStale: 'introspect' } }, 'introspection is required'],
    ['half an introspection', { introspection: { client: 'a' } }, 'introspection needs client'],
    ['too stale to promise anything', { revocation: { maxStaleMs: 60_000 } }, 'maxStaleMs must be a whole number from 1000 to 10000'],
    ['fresher than beats come', { revocation: { maxStaleMs: 200 } }, 'maxStaleMs'],
    ['an unknown rule', { revocation: { whenStale: 'pass' } }, 'whenStale'],
    ['an audience that is no URL, and proofs', { audience: 'urn:orders' }, 'publicUrl is required'],
    ['a public URL with a query', { publicUrl: 'https://orders.test/?x=1' }, 'publicUrl must be'],
    ['a replica on plain http', { feedUrls: ['http://10.0.0.1'] }, 'feedUrls must be https'],
    ['a name that no header may hold', { instance: 'web 1' }, 'instance'],
    ['an empty key', { guardKey: '' }, 'guardKey'],
  ])('%s', (_, change, says) => {
    expect(() => createGuard({ ...good, ...change } as GuardOptions)).toThrow(says)
  })
  test.each<[string, object, string]>([
    ['with a key', {}, 'bounded'],
    ['with introspection alone', { guardKey: undefined, introspection: ask }, 'strict'],
    ['with nobody, in writing', { guardKey: undefined, revocation: null }, 'offline'],
    ['http on this machine', { issuer: 'http://127.0.0.1:8787' }, 'bounded'],
    ['a name for audience, and where it is', { audience: 'urn:orders', publicUrl: 'https://orders.test' }, 'bounded'],
  ])('its twin is made: %s', (_, change, mode) => {
    const guard = createGuard({ ...good, ...change } as GuardOptions)
    expect(guard.health()).toMatchObject({ ok: false, mode, keysAgeMs: null, connected: false })
    guard.close()
  })
  test('ready tells what is missing, in time', async () => {
    const guard = createGuard(good)
    const since = performance.now()
    await expect(guard.ready({ timeoutMs: 200 })).rejects.toMatchObject({ code: 'keys_unavailable', status: 503 })
    expect(performance.now() - since).toBeLessThan(1_000)
    guard.close()
  })
})

test('a resource server loads jose, our nouns and its platform, and nothing else', () => {
  const seen = new Set<string>()
  const outside = new Set<string>()
  const walk = (file: string) => {
    if (seen.has(file)) return
    seen.add(file)
    for (const { target } of importsOf(file, readFileSync(file, 'utf8'))) {
      if (target.startsWith('src/')) walk(target)
      else if (!target.startsWith('node:')) outside.add(target)
    }
  }
  for (const name of readdirSync('src/guard')) walk(`src/guard/${name}`)
  expect([...outside]).toEqual(['jose'])
  expect([...seen].filter(f => !/^src\/(guard|domain)\//.test(f))).toEqual([])
})

test('docs/guard.md names every code, with its status', () => {
  const page = readFileSync('docs/guard.md', 'utf8')
  for (const [code, { status }] of Object.entries(GUARD_CODES)) expect(page).toMatch(new RegExp(`\\| \`${code}\` \\| ${status}`))
})

test('package.json leads to the files that are there', () => {
  const { exports } = JSON.parse(readFileSync('package.json', 'utf8')) as { exports: Record<string, { types: string; default: string }> }
  for (const name of ['./guard', './guard/testing']) {
    const { types, default: code } = exports[name] as { types: string; default: string }
    expect(readFileSync(types, 'utf8')).toContain('/** Owns `curfew/guard')
    expect(code).toBe(`./dist/${types.slice(2).replace(/\.ts$/, '.js')}`)
  }
})
