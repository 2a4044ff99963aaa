/** Owns that the commands of the pages for people do what the pages say, typed one after the other into a real shell. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import supertest from 'supertest'
import { afterAll, describe, expect, it } from 'vitest'
import { parse, stringify } from 'yaml'
import { load } from '../../src/config.js'
import { makeHouse, SERVER } from '../house.js'
import { blocksOf, fences } from '../pages.js'
import { play } from '../played.js'
import { typed } from '../unit/cli/desk.js'

const ROOT = new URL('../../', import.meta.url).pathname

const read = (page: string) => readFileSync(join(ROOT, page), 'utf8')

const closing: (() => unknown)[] = []
afterAll(async () => {
  for (const close of closing.reverse()) await close()
})

function folder(): string {
  const dir = mkdtempSync(join(tmpdir(), 'cf-pages-'))
  closing.push(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

/** A broker that listens, with somebody who works what it queues. */
async function listening(options: Parameters<typeof makeHouse>[0] = {}) {
  const house = await makeHouse(options)
  const server = createServer(house.http)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  let busy = false
  const worker = setInterval(async () => {
    if (busy) return
    busy = true
    await house.work().catch(() => {})
    busy = false
  }, 50)
  closing.push(async () => {
    clearInterval(worker)
    server.closeAllConnections()
    await new Promise(resolve => server.close(resolve))
    await house.close()
  })
  return { house, env: { CURFEW_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, CURFEW_ISSUER: SERVER } }
}

describe('what the pages say to type', () => {
  it('docs/responders.md: find, plan, act, prove, lift', async () => {
    const dir = folder()
    const { house, env } = await listening()
    const token = await house.operator('responder')
    writeFileSync(join(dir, 'operator-token'), token, { mode: 0o600 })
    writeFileSync(join(dir, 'job.jwt'), await house.evidence())
    // A job whose token leaks: what the page begins with.
    await play(['curfew token demo/orders-ro --id-token-file job.jwt > leaked'], env, dir)
    const known = { ...env, CURFEW_OPERATOR_TOKEN_FILE: join(dir, 'operator-token'), LEAKED: readFileSync(join(dir, 'leaked'), 'utf8').trim() }
    const played = await play(blocksOf(read('docs/responders.md'), 'sh'), known, dir)
    expect(played.length).toBeGreaterThan(12)
    expect(existsSync(join(dir, 'INC-204.json'))).toBe(true)
    const { body } = await supertest(house.http).get('/v1/credentials').set('Authorization', `Bearer ${token}`)
    expect(body.credentials.map((c: { state: string }) => c.state)).toEqual(['revoked'])
  }, 180_000)

  it('docs/agents.md: a key of its own, registered as shown, one task after the other', async () => {
    const dir = folder()
    const page = read('docs/agents.md')
    const [keys, ...rest] = blocksOf(page, 'sh')
    await play([keys as string], {}, dir)
    const shown = parse(blocksOf(page, 'yaml')[0] as string)
    shown.issuers[0].agents[0].key.file = join(dir, shown.issuers[0].agents[0].key.file)
    const { house, env } = await listening({
      more: { ...shown, signals: { sources: [], rules: [] } },
      policies: `@id("agents")
permit(principal, action == Action::"issue", resource == Capability::"demo/orders-ro")
when { context.issuer == "agents" && context has registered && context.registered.labels.contains("team=orders") };`,
    })
    expect(await play(rest, env, dir)).toContain('curfew complete --mine')
    const { body } = await supertest(house.http)
      .get('/v1/credentials')
      .set('Authorization', `Bearer ${await house.operator('auditor')}`)
    expect(body.credentials.map((c: { state: string }) => c.state)).toEqual(['revoked', 'revoked'])
  }, 180_000)
})

/** What stands around the lines that the example shows of itself. */
const AROUND = `import { pipeline } from 'node:stream/promises'
import { createGuard } from 'curfew/guard'
declare const issuer: string, audience: string, guardKey: string, pages: AsyncIterable<string>, res: express.Response, req: express.Request & { curfew: { signal: AbortSignal } }
`

describe('what the pages say to write', () => {
  it.each(['docs/keys.md', 'docs/oauth.md', 'examples/orders-python/README.md'])('%s: the configuration is one', page => {
    const path = join(ROOT, 'config/curfew.example.yaml')
    const secrets = { ORDERS_SECRET: 'x'.repeat(32) }
    const blocks = blocksOf(read(page), 'yaml')
    expect(blocks.length).toBeGreaterThan(0)
    for (const block of blocks) {
      const example = parse(readFileSync(path, 'utf8'))
      const { audiences = [], ...others } = parse(block)
      const whole = {
        ...example,
        ...others,
        audiences: [...example.audiences.filter((a: { uri: string }) => !audiences.some((b: { uri: string }) => b.uri === a.uri)), ...audiences],
      }
      // Capabilities of the example whose audience stood in the way of the shown one.
      whole.capabilities = whole.capabilities.filter(
        (c: { audience?: string }) => c.audience === undefined || whole.audiences.some((a: { name: string }) => a.name === c.audience),
      )
      const readFile = (file: string) =>
        file === path ? stringify(whole) : file.endsWith('master-key') ? Buffer.alloc(32, 1).toString('base64') : 'postgres://curfew@127.0.0.1/curfew'
      expect(() => load({ path, env: secrets, readFile }), block).not.toThrow()
    }
  })

  it('docs/http-api.md: every JSON is JSON', () => {
    const blocks = blocksOf(read('docs/http-api.md'), 'json')
    expect(blocks.length).toBeGreaterThan(3)
    for (const block of blocks) {
      // One value, or one a line.
      const whole = (() => {
        try {
          return [JSON.parse(block)]
        } catch {
          return block
            .trim()
            .split('\n')
            .map(line => JSON.parse(line))
        }
      })()
      expect(whole.length, block).toBeGreaterThan(0)
    }
  })

  it('docs/guard.md and the README: the lines compile as they stand, and the test does what it shows', () => {
    const dir = join(ROOT, 'dist/pages')
    mkdirSync(dir, { recursive: true })
    closing.push(() => rmSync(dir, { recursive: true, force: true }))
    const [shown, tested] = blocksOf(read('docs/guard.md'), 'ts')
    const lines = [shown, ...blocksOf(read('README.md'), 'ts'), `${AROUND}${blocksOf(read('examples/orders-api/README.md'), 'ts')[0]}`]
    const files = lines.map((block, i) => {
      writeFileSync(join(dir, `page${i}.ts`), `import express from 'express'\nconst app = express()\n${block}`)
      return `page${i}.ts`
    })
    writeFileSync(
      join(dir, 'tsconfig.json'),
      JSON.stringify({ extends: '../../tsconfig.json', compilerOptions: { noEmit: true, rootDir: '../..' }, files, include: [] }),
    )
    execFileSync(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', dir], { encoding: 'utf8', stdio: 'pipe' })
    writeFileSync(join(dir, 'tested.mjs'), `${tested}\nconsole.log('done')`)
    expect(execFileSync(process.execPath, [join(dir, 'tested.mjs')], { encoding: 'utf8' })).toBe('done\n')
  }, 120_000)
})

/** The command lines of these are typed nowhere whole: each command must exist, with every flag that it is given. */
const SPOKEN = ['docs/keys.md', 'docs/forward-auth.md', 'examples/orders-api/README.md', 'examples/orders-python/README.md']

describe('what other pages say of commands', () => {
  const lines = SPOKEN.flatMap(page =>
    ['sh', ''].flatMap(language => blocksOf(read(page), language)).flatMap(block => block.replaceAll('\\\n', ' ').split('\n')),
  )
  const commands = lines.flatMap(line =>
    [...line.matchAll(/(?:^|\.\/bin\/)curfew ([a-z-]+(?: (?:add|list|disable|rotate|retire))?)([^#)|]*)/g)].map(m => ({
      line,
      verb: m[1] as string,
      rest: m[2] as string,
    })),
  )
  it('there are some', () => expect(commands.length).toBeGreaterThan(6))
  it.each(commands)('$line', async ({ verb, rest }) => {
    const { exit, out } = await typed([...verb.split(' '), '--help'], {})
    expect(exit).toBe(0)
    for (const [flag] of rest.matchAll(/--[a-z-]+/g)) expect(out).toContain(flag)
  })
})

/** Where the blocks of a page are run: here, in a file that names the page, or not at all, as the page says itself. */
const PLAYED: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'README.md': { sh: 'test/unit/readme.test.ts', '': 'test/unit/readme.test.ts', ts: 'here' },
  'docs/responders.md': { sh: 'here' },
  'docs/agents.md': { sh: 'here', yaml: 'here' },
  'docs/ci.md': { sh: 'test/http/ci-page.test.ts', yaml: 'test/http/ci-page.test.ts', cedar: 'test/http/ci-page.test.ts' },
  'docs/guard.md': { ts: 'here' },
  'docs/keys.md': { yaml: 'here', '': 'here' },
  'docs/oauth.md': { js: 'test/http/oauth-page.test.ts', yaml: 'here', sh: 'test/integration/parties.test.ts' },
  'docs/http-api.md': { json: 'here' },
  'docs/forward-auth.md': { nginx: 'test/integration/nginx.test.ts', yaml: 'was not run', '': 'was not run', sh: 'here' },
  'docs/engines.md': { ts: 'test/unit/engine-suite.test.ts', yaml: 'test/unit/engine-suite.test.ts' },
  'docs/operators.md': { sh: 'test/integration/operators-page.test.ts' },
  'docs/ssh.md': { sh: 'test/integration/ssh.test.ts', sshd_config: 'test/integration/ssh.test.ts' },
  'examples/engine-redis-acl/README.md': { yaml: 'test/integration/engine-redis-acl.test.ts', sh: 'test/integration/engine-redis-acl.test.ts' },
  'examples/orders-api/README.md': { sh: 'here', ts: 'here' },
  'examples/orders-python/README.md': { yaml: 'here', sh: 'here' },
}

describe('every block of every page', () => {
  const pages = [
    'README.md',
    ...readdirSync(join(ROOT, 'docs')).map(name => `docs/${name}`),
    ...readdirSync(join(ROOT, 'examples')).map(name => `examples/${name}/README.md`),
  ]
  it.each(pages.filter(page => page.endsWith('.md')))('of %s is run by a test, or the page says that it was not', page => {
    for (const language of new Set(fences(read(page)))) {
      const where = PLAYED[page]?.[language]
      expect(where, `${page}: ${language || 'plain'}`).toBeDefined()
      if (where?.startsWith('test/')) expect(readFileSync(join(ROOT, where), 'utf8')).toContain(page.split('/').at(-1))
      else if (where !== 'here') expect(read(page)).toContain(where)
    }
  })
})
