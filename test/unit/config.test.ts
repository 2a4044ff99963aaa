/** Owns what the configuration promises: the order of its sources, every contradiction refused by name, secrets that never show. */
import { readFileSync } from 'node:fs'
import { inspect } from 'node:util'
import { describe, expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { type LoadedConfig, type LoadOptions, load, show, toAudiences, toCapabilities } from '../../src/config.js'
import { PUBLISH_AHEAD_MIN } from '../../src/config-schema.js'
import { CurfewError } from '../../src/domain/errors.js'
import { Secret } from '../../src/domain/secret.js'
import { DATABASE_PARAMETERS } from '../../src/engines/vault-database.js'
import { PKI_PARAMETERS } from '../../src/engines/vault-pki.js'
import { SSH_PARAMETERS } from '../../src/engines/vault-ssh.js'
import { TOKEN_PARAMETERS } from '../../src/engines/vault-token.js'
import { JWKS_MAX_AGE } from '../../src/http/metadata.js'

const EXAMPLE = readFileSync(new URL('../../config/curfew.example.yaml', import.meta.url), 'utf8')
const CANARY = 'canary-7f3a9c-do-not-print'
// biome-ignore lint/suspicious/noExplicitAny: a tree of free shape that cases bend.
type Bent = any

/** The example with one thing bent. */
function bent(change: (tree: Bent) => void): string {
  const tree = parse(EXAMPLE)
  change(tree)
  return stringify(tree, { aliasDuplicateObjects: false })
}

function loadText(text: string, options: Partial<LoadOptions> & { files?: Record<string, string> } = {}): LoadedConfig {
  return load({
    path: '/etc/curfew/curfew.yaml',
    env: {},
    readFile: path => {
      if (path === '/etc/curfew/curfew.yaml') return text
      const own = options.files?.[path]
      if (own !== undefined) return own
      if (path.startsWith('/run/secrets/')) return `${CANARY}\n`
      throw new Error(`ENOENT: ${path}`)
    },
    ...options,
  })
}

function problemsOf(text: string, options: Parameters<typeof loadText>[1] = {}): string[] {
  try {
    loadText(text, options)
  } catch (fault) {
    expect(fault).toBeInstanceOf(CurfewError)
    expect((fault as CurfewError).code).toBe('malformed')
    return (fault as CurfewError).message.split('\n')
  }
  return []
}

describe('the example', () => {
  const { config } = loadText(EXAMPLE)

  test('loads as a production configuration', () => {
    expect(config.mode).toBe('production')
    expect(config.issuers.map(i => i.name)).toEqual(['github', 'mesh', 'agents', 'cluster', 'gitlab', 'buildkite', 'circleci'])
    expect(config.capabilities.map(c => c.name)).toEqual([
      'db/orders-ro',
      'demo/orders-ro',
      'demo/orders-bearer',
      'deploy/prod',
      'tls/orders-client',
      'ssh/orders-deploy',
      'kv/orders-config',
    ])
  })

  test('its relative paths start at the folder of the file, absolute ones stay', () => {
    expect(config.policies.dir).toBe('/etc/curfew/policies')
    const mesh = config.issuers.find(i => i.kind === 'spiffe')
    expect(mesh?.bundle).toEqual({ file: '/etc/curfew/trust/example.org.bundle.json' })
  })

  test('the engines of Vault accept their parameters, and another role name breaks them', () => {
    const parameters = config.capabilities[0]?.parameters
    const shapes = { 'vault-database': DATABASE_PARAMETERS, 'vault-pki': PKI_PARAMETERS, 'vault-ssh': SSH_PARAMETERS, 'vault-token': TOKEN_PARAMETERS }
    for (const c of config.capabilities) if (c.engine !== 'jwt') expect(shapes[c.engine as keyof typeof shapes].safeParse(c.parameters).error).toBeUndefined()
    expect(DATABASE_PARAMETERS.safeParse(parameters).success).toBe(true)
    expect(DATABASE_PARAMETERS.safeParse({ ...parameters, role: '../x' }).success).toBe(false)
  })

  test('the result is frozen to the bottom', () => {
    expect(() => ((config.server as Bent).url = 'https://other.example')).toThrow(TypeError)
    expect(() => (config.capabilities as Bent).push({})).toThrow(TypeError)
    expect(() => ((config.capabilities as Bent)[0].parameters.connection.host = 'x')).toThrow(TypeError)
  })

  test('becomes audiences and capabilities whose class is the weaker of engine and audience', () => {
    expect(toAudiences(config)).toEqual([
      { name: 'orders', uri: 'https://orders.example/', senderConstrained: true, alg: 'ES256', introspects: true },
      { name: 'legacy-orders', uri: 'https://legacy-orders.example/', senderConstrained: false, alg: 'ES256', introspects: true },
    ])
    expect(toCapabilities(config).map(c => [c.name, c.revocation])).toEqual([
      ['db/orders-ro', 'backend'],
      ['demo/orders-ro', 'instant'],
      ['demo/orders-bearer', 'instant'],
      ['deploy/prod', 'instant'],
      ['tls/orders-client', 'backend'],
      ['ssh/orders-deploy', 'expiry-only'],
      ['kv/orders-config', 'backend'],
    ])
    expect(toCapabilities(config)[0]?.audience).toBeNull()

    const mute = loadText(bent(t => delete t.audiences[0].secret)).config
    expect(toCapabilities(mute).find(c => c.name === 'demo/orders-ro')?.revocation).toBe('expiry-only')
  })
})

describe('the order of sources', () => {
  const at = (options: Parameters<typeof loadText>[1]) => {
    const loaded = loadText(EXAMPLE, options)
    return [loaded.config.server.listen, loaded.origins.get('server.listen')]
  }
  const env = { CURFEW_SERVER_LISTEN: '0.0.0.0:1001', CURFEW_SERVER_LISTEN_FILE: '/run/listen' }
  const files = { '/run/listen': '0.0.0.0:1002\n' }

  test('a flag wins over the environment', () => {
    expect(at({ env, files, flags: { 'server.listen': '0.0.0.0:1000' } })).toEqual(['0.0.0.0:1000', 'flag'])
  })
  test('CURFEW_* wins over CURFEW_*_FILE', () => {
    expect(at({ env, files })).toEqual(['0.0.0.0:1001', 'env CURFEW_SERVER_LISTEN'])
  })
  test('CURFEW_*_FILE wins over the file', () => {
    expect(at({ env: { CURFEW_SERVER_LISTEN_FILE: '/run/listen' }, readFile: readerOf({ ...files, '/etc/curfew/curfew.yaml': EXAMPLE }) })).toEqual([
      '0.0.0.0:1002',
      'env CURFEW_SERVER_LISTEN_FILE',
    ])
  })
  test('the file wins over the default, and a default is called one', () => {
    expect(at({})).toEqual(['127.0.0.1:8787', 'file'])
    const loaded = loadText(EXAMPLE)
    expect(loaded.config.server.maxConnections).toBe(5_000)
    expect(loaded.origins.get('server.maxConnections')).toBe('default')
    expect(loaded.origins.get('store.url')).toBe('file')
    expect(loaded.origins.get('capabilities.1.ttlSeconds')).toBe('default')
  })
  test('an empty variable is a variable that is not set', () => {
    expect(at({ env: { CURFEW_SERVER_LISTEN: '' } })).toEqual(['127.0.0.1:8787', 'file'])
  })
  test('numbers and words arrive in their type, deep settings under their path', () => {
    const { config } = loadText(EXAMPLE, {
      env: { CURFEW_SERVER_MAX_CONNECTIONS: '77', CURFEW_LOG_LEVEL: 'debug', CURFEW_VAULT_ISSUER_ROLE_ID: 'other', CURFEW_TIMERS_SWEEP_MS: '250' },
    })
    expect([config.server.maxConnections, config.log.level, config.timers.sweepMs]).toEqual([77, 'debug', 250])
    expect(config.vault?.issuer).toMatchObject({ roleId: 'other' })
  })
  test('a secret of the environment is named by its variable and wins over the file', () => {
    const loaded = loadText(EXAMPLE, { env: { CURFEW_STORE_URL: 'postgres://env' } })
    expect(loaded.config.store).toMatchObject({ kind: 'postgres' })
    expect((loaded.config.store as { url: Secret }).url.digest()).toBe(Secret.token('postgres://env').digest())
    expect(loaded.origins.get('store.url')).toBe('env CURFEW_STORE_URL')
  })
  test('CURFEW_CONFIG names the file when nobody else does', () => {
    const loaded = load({ env: { CURFEW_CONFIG: '/srv/c.yaml' }, readFile: readerOf({ '/srv/c.yaml': EXAMPLE }) })
    expect(loaded.path).toBe('/srv/c.yaml')
    expect(loaded.config.policies.dir).toBe('/srv/policies')
  })
})

function readerOf(files: Record<string, string>) {
  return (path: string) => {
    const text = files[path] ?? (path.startsWith('/run/secrets/') ? CANARY : undefined)
    if (text === undefined) throw new Error('ENOENT')
    return text
  }
}

describe('secrets', () => {
  test('are read once, without the newline that ends a file', () => {
    const { config } = loadText(EXAMPLE)
    const expected = Secret.token(CANARY).digest()
    expect(config.audiences[0]?.secret?.digest()).toBe(expected)
    expect(config.capabilities[0]?.target?.url.digest()).toBe(expected)
  })
  test('never show: not in the listing, not in JSON, not in inspect (K6)', () => {
    const loaded = loadText(EXAMPLE)
    const text = [show(loaded, { origin: true }).join('\n'), JSON.stringify(loaded), inspect(loaded, { depth: 20 })].join('\n')
    expect(text).not.toContain(CANARY)
    expect(text).toContain('store.url = [secret]  (file)')
    expect(text).toContain('server.url = "https://curfew.example"  (file)')
  })
  test('one that cannot be read is a problem with its path, and no value is quoted', () => {
    expect(problemsOf(bent(t => (t.store.url = { env: 'NOT_SET' })))).toEqual(['store.url: the environment variable NOT_SET is not set'])
    expect(problemsOf(bent(t => (t.signer.masterKey = { file: 'gone' })))).toEqual(['signer.masterKey: the file gone cannot be read'])
    expect(problemsOf(bent(t => (t.capabilities[0].target.url = { env: 'NOT_SET' })))).toEqual([
      'capabilities.0.target.url: the environment variable NOT_SET is not set',
    ])
  })
  test('one that is written into the file is refused without being repeated', () => {
    const problems = problemsOf(bent(t => (t.store.url = `postgres://u:${CANARY}@h/d`)))
    expect(problems).toEqual(['store.url: is a secret, which is named and not written here: { env: NAME } or { file: PATH }'])
  })
})

test('P43 a key is published for longer than anybody may keep the key set', () => {
  // A replica reads the store every 5 s; a minute is left for what lies between.
  expect(PUBLISH_AHEAD_MIN).toBeGreaterThanOrEqual(JWKS_MAX_AGE + 5 + 50)
  expect(loadText(EXAMPLE).config.signer.publishAheadSeconds).toBeGreaterThanOrEqual(PUBLISH_AHEAD_MIN)
})

const REDIS = { kind: 'redis-acl', module: 'engines/redis.js', revocation: 'backend', settings: { port: 1 }, secrets: { admin: { file: '/run/secrets/r' } } }

test('an engine that is not ours: its path starts at the folder of the file, its secrets are read, its class is known without running it', () => {
  const { config } = loadText(
    bent(t => {
      t.engines = [REDIS]
      Object.assign(t.capabilities[1], { engine: 'redis-acl', audience: undefined })
    }),
  )
  expect(config.engines[0]).toMatchObject({ module: '/etc/curfew/engines/redis.js', settings: { port: 1 } })
  expect(config.engines[0]?.secrets.admin?.reveal().token).toBe(CANARY)
  expect(toCapabilities(config)[1]?.revocation).toBe('backend')
  // Nothing of it can be said by the environment: whoever starts us must not choose what we run.
  expect(loadText(EXAMPLE, { env: { CURFEW_ENGINES: JSON.stringify([REDIS]), CURFEW_ENGINES_0_MODULE: '/tmp/x.js' } }).config.engines).toEqual([])
})

describe('cross-field rules, each with its path', () => {
  const cases: [string, (t: Bent) => void, string][] = [
    ['http in production', t => (t.server.url = 'http://curfew.example'), 'server.url: must be https outside dev mode'],
    ['memory store in production', t => (t.store = { kind: 'memory' }), 'store.kind: memory is for dev'],
    ['memory queue in production', t => (t.queue = { kind: 'memory' }), 'queue.kind: memory is for dev'],
    ['memory engine in production', t => (t.capabilities[0].engine = 'memory'), 'capabilities.0.engine: memory is for dev'],
    ['a key that signs before verifiers know it (P43)', t => (t.signer.publishAheadSeconds = 359), 'signer.publishAheadSeconds: must be 360 or more'],
    ['an issuer name twice', t => (t.issuers[1].name = 'github'), 'issuers.1.name: is used twice: github'],
    ['an issuer twice', t => t.issuers.push({ ...t.issuers[0], name: 'github-2' }), 'issuers.7: is registered twice: https://token.actions'],
    ['a trust domain twice', t => t.issuers.push({ ...t.issuers[1], name: 'mesh-2' }), 'issuers.7: is registered twice: spiffe://example.org'],
    ['an agent name twice', t => t.issuers[2].agents.push(t.issuers[2].agents[0]), 'issuers.2.agents.1.name: is used twice: triage'],
    ['a shared issuer without a pin (T33)', t => (t.issuers[0].pin = { ref: ['x'] }), 'issuers.0.pin: this issuer serves many tenants'],
    ['an http issuer', t => Object.assign(t.issuers[0], { issuer: 'http://ci.example' }), 'issuers.0.issuer: must be https'],
    ['an audience name twice', t => (t.audiences[1].name = 'orders'), 'audiences.1.name: is used twice: orders'],
    ['an audience URI twice', t => (t.audiences[1].uri = t.audiences[0].uri), 'audiences.1.uri: is registered twice'],
    ['an audience that is the server', t => (t.audiences[1].uri = 'https://curfew.example'), 'audiences.1.uri: is the server itself'],
    ['a capability name twice', t => (t.capabilities[1].name = 'db/orders-ro'), 'capabilities.1.name: is used twice'],
    ['an unknown audience', t => (t.capabilities[1].audience = 'nobody'), 'capabilities.1.audience: names no audience: nobody'],
    ['a jwt capability without audience', t => delete t.capabilities[1].audience, 'capabilities.1.audience: the jwt engine needs an audience'],
    ['a life above its ceiling', t => (t.capabilities[0].ttlSeconds = 901), 'capabilities.0.ttlSeconds: is above maxTtlSeconds'],
    ['a database capability without vault', t => delete t.vault, 'vault: is needed by capability db/orders-ro'],
    ['an engine of nobody', t => (t.capabilities[0].engine = 'redis-acl'), 'capabilities.0.engine: names no engine: redis-acl'],
    ['an engine that takes the name of ours', t => (t.engines = [{ ...REDIS, kind: 'vault-pki' }]), 'engines.0.kind: is the name of an engine of ours'],
    ['an engine twice', t => (t.engines = [REDIS, REDIS]), 'engines.1.kind: is used twice: redis-acl'],
    ['an engine from elsewhere', t => (t.engines = [{ ...REDIS, module: 'https://evil.example/e.js' }]), 'engines.0.module: must be a path'],
    ['an engine that is data', t => (t.engines = [{ ...REDIS, module: 'data:text/javascript,0//e.js' }]), 'engines.0.module: must be a path'],
    ['an engine of a package', t => (t.engines = [{ ...REDIS, module: 'redis-acl' }]), 'engines.0.module: must be a file that ends in .js or .mjs'],
    ['an engine whose secret is written out', t => (t.engines = [{ ...REDIS, secrets: { admin: 'redis://x' } }]), 'engines.0.secrets.admin: is a secret'],
    ['an engine of a class that is none of the two', t => (t.engines = [{ ...REDIS, revocation: 'instant' }]), 'engines.0.revocation'],
    ['a signal about strangers', t => (t.signals.sources[0].issuers = ['nobody']), 'signals.sources.0.issuers.0: names no trust issuer: nobody'],
    ['a rule of an unknown source', t => (t.signals.rules[0].source = 'nobody'), 'signals.rules.0.source: names no signal source: nobody'],
    ['a rule name twice', t => (t.signals.rules[1].name = t.signals.rules[0].name), 'signals.rules.1.name: is used twice'],
    ['a source name twice', t => t.signals.sources.push(t.signals.sources[0]), 'signals.sources.1.name: is used twice: edr'],
    ['a hook of nobody', t => (t.hooks[0].issuer = 'nobody'), 'hooks.0.issuer: names no trust issuer: nobody'],
    ['a hook of another kind of issuer', t => (t.hooks[0].issuer = 'mesh'), 'hooks.0.issuer: is not an issuer of profile github'],
    ['a hook of another profile', t => (t.hooks[0].issuer = 'cluster'), 'hooks.0.issuer: is not an issuer of profile github'],
    ['a hook about owners outside the pin (T73)', t => t.hooks[0].owners.push('777'), 'hooks.0.owners.1: is outside the pin of issuer github'],
    ['a hook about nobody', t => (t.hooks[0].owners = []), 'hooks.0.owners: '],
    ['an owner by name', t => (t.hooks[0].owners = ['acme']), 'hooks.0.owners.0: must be a number in quotes'],
    ['a hook name twice', t => t.hooks.push(t.hooks[0]), 'hooks.3.name: is used twice: github-org'],
    ['a hook about the project of another (T73)', t => t.hooks[1].projects.push('21'), 'hooks.1.projects.1: is outside the pin of issuer gitlab'],
    ['a hook of GitLab about GitHub', t => (t.hooks[1].issuer = 'github'), 'hooks.1.issuer: is not an issuer of profile gitlab'],
    ['a project by name', t => (t.hooks[1].projects = ['acme/orders']), 'hooks.1.projects.0: must be a number in quotes'],
    ['a pipeline by its slug', t => (t.hooks[2].pipelines = ['orders']), 'hooks.2.pipelines.0: must be a pipeline_id'],
    ['an organization of Buildkite pinned by its name (P2 P9)', t => (t.issuers[5].pin = { organization_slug: ['acme'] }), 'issuers.5.pin: this issuer serves'],
    ['gitlab.com without a pin (T33 P9)', t => (t.issuers[4].pin = {}), 'issuers.4.pin: this issuer serves many tenants'],
    [
      'CircleCI without its organization (P9)',
      t => (t.issuers[6].issuer = 'https://oidc.circleci.com'),
      'issuers.6.issuer: is not the issuer of one organization',
    ],
    ['CircleCI with the name of an organization', t => (t.issuers[6].issuer += '-evil'), 'issuers.6.issuer: is not the issuer of one organization'],
    [
      'what tokens of CircleCI are for by default (P10)',
      t => (t.issuers[6].audience = 'c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e'),
      'issuers.6.audience: is what every',
    ],
    ['what tokens of Buildkite are for by default (P10)', t => (t.issuers[5].audience = 'https://buildkite.com/acme'), 'issuers.5.audience: is what every'],
    ['what tokens of GitLab were for by default (P10)', t => (t.issuers[4].audience = 'https://gitlab.com'), 'issuers.4.audience: is what every'],
    ['what tokens of GitHub are for by default (P10 T25)', t => (t.issuers[0].audience = 'https://github.com/acme'), 'issuers.0.audience: is what every'],
    ['a hook that is called like a signal source', t => (t.hooks[0].name = 'edr'), 'hooks.0.name: is the name of a signal source: edr'],
    ['the secret of a hook, written out', t => (t.hooks[0].secret = 'hunter2'), 'hooks.0.secret: is a secret'],
    ['a default life above the longest', t => (t.tasks.maxLifeSeconds = 60), 'tasks.defaultLifeSeconds: is above maxLifeSeconds'],
    ['metrics on the public listener', t => (t.server.internal = '127.0.0.1:8787'), 'server.internal: is the public listener'],
  ]
  test.each(cases)('%s is refused', (_, change, wanted) => {
    expect(problemsOf(bent(change)).filter(line => line.startsWith(wanted))).toHaveLength(1)
  })
  test('a transit signer without a vault section is refused', () => {
    const text = bent(t => {
      t.signer = { kind: 'transit', key: 'curfew' }
      t.capabilities = t.capabilities.filter((c: Bent) => c.engine === 'jwt')
      delete t.vault
    })
    expect(problemsOf(text)).toEqual(['vault: is needed by signer.kind transit'])
  })
  test('the twin: dev mode admits memory, http and a missing vault', () => {
    const text = bent(t => {
      Object.assign(t, { mode: 'dev', store: { kind: 'memory' }, queue: { kind: 'memory' } })
      t.server.url = 'http://127.0.0.1:8787'
      for (const c of t.capabilities) if (c.engine !== 'jwt') c.engine = 'memory'
      delete t.vault
    })
    expect(problemsOf(text)).toEqual([])
  })
})

describe('shape', () => {
  test('an unknown key names the one that was probably meant, at any depth', () => {
    const text = bent(t => {
      t.server.maxConections = 5
      t.capabilites = []
      t.issuers[0].audiance = 'x'
      t.capabilities[0].max_live = 3
      t.log.zzz = 1
    })
    expect(problemsOf(text)).toEqual(
      expect.arrayContaining([
        'server.maxConections: is no setting; did you mean maxConnections?',
        'capabilites: is no setting; did you mean capabilities?',
        'issuers.0.audiance: is no setting; did you mean audience?',
        'capabilities.0.max_live: is no setting; did you mean maxLive?',
        'log.zzz: is no setting',
      ]),
    )
  })
  test('every problem is listed, not only the first', () => {
    const text = bent(t => {
      delete t.server.url
      t.capabilities[2].ttlSeconds = 1.5
      t.log.level = 'loud'
    })
    const problems = problemsOf(text)
    expect(problems).toHaveLength(3)
    expect(problems[0]).toBe('server.url: is missing')
    expect(problems[1]).toContain('capabilities.2.ttlSeconds: expected int')
    expect(problems[2]).toContain('log.level: expected one of')
  })
  test('an unknown kind lists the kinds there are', () => {
    expect(problemsOf(bent(t => (t.store.kind = 'mysql')))).toEqual(['store.kind: must be one of postgres, pglite, memory'])
    expect(problemsOf(bent(t => delete t.queue.kind))).toEqual(['queue.kind: must be one of redis, memory'])
  })
  test('a union is judged by its nearest branch', () => {
    expect(
      problemsOf(
        bent(t => (t.issuers[1].bundle = { endpoint: 'https://spire.example', profile: 'https_spiffe', serverId: 'spiffe://example.org/spire/server' })),
      ),
    ).toEqual(['issuers.1.bundle.bootstrapFile: is missing'])
  })
  test.each(['16kib ', '5000 ', '1e3', 'NaN', '0x10', '5,000', '-'])('H02: the limit %j does not parse, and start is refused', value => {
    const problems = problemsOf(EXAMPLE, { env: { CURFEW_SERVER_MAX_CONNECTIONS: value } })
    expect(problems).toHaveLength(1)
    expect(problems[0]).toMatch(/^server\.maxConnections: expected (int|number), received string \(from env CURFEW_SERVER_MAX_CONNECTIONS\)$/)
  })
  test('H02: a limit out of its range is refused in the file too', () => {
    expect(problemsOf(bent(t => (t.server.maxConnections = 0)))[0]).toMatch(/^server\.maxConnections: /)
    expect(problemsOf(EXAMPLE.replace('maxLive: 200', 'maxLive: .nan'))[0]).toMatch(/^capabilities\.0\.maxLive: /)
    expect(problemsOf(EXAMPLE.replace('maxLive: 200', 'maxLive: .inf'))[0]).toMatch(/^capabilities\.0\.maxLive: /)
  })
  describe('the limits on requests', () => {
    const limitsOf = (text: string, env: Record<string, string> = {}) => loadText(text, { env }).config.limits
    const without = bent(t => delete t.limits)
    const DEFAULTS = { source: { perSecond: 1_000, burst: 5_000 }, identity: { perSecond: 50, burst: 1_000 }, breadth: { capabilities: 20, withinSeconds: 60 } }
    test('are on for who says nothing, and what is not said of one is as it was', () => {
      expect(limitsOf(without)).toEqual(DEFAULTS)
      expect(limitsOf(bent(t => (t.limits = { identity: { burst: 7 } })))).toEqual({ ...DEFAULTS, identity: { perSecond: 50, burst: 7 } })
      expect(limitsOf(without, { CURFEW_LIMITS_IDENTITY_PER_SECOND: '9' })).toEqual({ ...DEFAULTS, identity: { perSecond: 9, burst: 1_000 } })
    })
    test('each is off for who says false, and for nobody else', () => {
      expect(limitsOf(bent(t => (t.limits = { source: false, identity: false, breadth: false })))).toEqual({ source: false, identity: false, breadth: false })
      expect(limitsOf(without, { CURFEW_LIMITS_SOURCE: 'false' })).toEqual({ ...DEFAULTS, source: false })
    })
    test.each([
      ['source', { perSecond: '10 ', burst: 5 }, 'limits.source.perSecond: '],
      ['source', { perSecond: 0, burst: 5 }, 'limits.source.perSecond: '],
      ['identity', { perSecond: 10, burst: Number.NaN }, 'limits.identity.burst: '],
      ['identity', { perSecond: 1.5 }, 'limits.identity.perSecond: '],
      ['identity', { perSecnd: 10 }, 'limits.identity.perSecnd: is no setting; did you mean perSecond?'],
      ['breadth', { capabilities: -1 }, 'limits.breadth.capabilities: '],
      ['breadth', 20, 'limits.breadth: must be { capabilities, withinSeconds }, or false for no limit'],
      ['identity', 'false', 'limits.identity: must be { perSecond, burst }, or false for no limit'],
      ['source', true, 'limits.source: must be { perSecond, burst }, or false for no limit'],
      ['source', null, 'limits.source: '],
    ])('H02: %s as %j refuses the start', (name, value, problem) => {
      const problems = problemsOf(bent(t => (t.limits = { [name as string]: value })))
      expect(problems).toHaveLength(1)
      expect(problems[0]?.startsWith(problem)).toBe(true)
    })
    test('H02: nor does a variable that does not parse switch one off', () => {
      expect(problemsOf(without, { env: { CURFEW_LIMITS_IDENTITY_BURST: '16kib ' } })[0]).toMatch(/^limits\.identity\.burst: /)
      expect(problemsOf(without, { env: { CURFEW_LIMITS_IDENTITY: 'off' } })[0]).toMatch(/^limits\.identity: must be/)
    })
    test('what they see is told by a source that nobody else may be', () => {
      expect(problemsOf(bent(t => (t.signals.sources[0].name = 'curfew')))).toContain('signals.sources.0.name: is the name of what Curfew sees itself')
      expect(limitsOf(bent(t => t.signals.rules.push({ name: 'broad', source: 'curfew', act: { kind: 'quarantine', seconds: 60 } })))).toEqual(DEFAULTS)
    })
  })
  test('a flag that is no setting is refused with a guess', () => {
    expect(problemsOf(EXAMPLE, { flags: { 'server.lisen': 'x' } })).toEqual(['server.lisen: is no setting; did you mean server.listen?'])
  })
  test('a variable that looks like a setting is told, not refused: orchestrators write their own', () => {
    const loaded = loadText(EXAMPLE, { env: { CURFEW_SERVER_LISTN: 'x', CURFEW_SERVER_SERVICE_HOST: '10.0.0.1' } })
    expect(loaded.warnings).toEqual(['CURFEW_SERVER_LISTN is no setting; did you mean CURFEW_SERVER_LISTEN?'])
  })
})

describe('YAML', () => {
  const cases: [string, string, RegExp][] = [
    ['a repeated key', 'a: 1\na: 2\n', /line 2, column 1: .*unique/i],
    ['an anchor', 'a: &x 1\n', /an anchor/],
    ['an alias', 'a: &x 1\nb: *x\n', /line 2, column 4: an alias/],
    ['a tag of its own', 'a: !env X\n', /a tag/],
    ['a standard tag', 'a: !!str 1\n', /a tag/],
    ['a key that is no text', '1: a\n', /a key that is no text/],
    ['a list as key', '? [a]\n: b\n', /a key that is no text/],
    ['a prototype key (H20)', 'server: { __proto__: { url: x } }\n', /a key named __proto__/],
    ['two documents', 'a: 1\n---\nb: 2\n', /document/i],
    ['a list at the top', '- a\n', /the file must hold keys and values/],
    ['broken text', 'a: "b\n', /line \d+, column \d+: /],
  ]
  test.each(cases)('%s is refused with its place', (_, text, wanted) => {
    expect(problemsOf(text).join('\n')).toMatch(wanted)
  })
  test('a file that is too large is refused before it is parsed', () => {
    expect(problemsOf(`a: ${'x'.repeat(1_048_577)}`)).toEqual(['file: is larger than 1 MiB'])
  })
  test('a merge key is a key like any other, and so unknown', () => {
    expect(problemsOf(`${EXAMPLE}\n<<: { mode: dev }\n`)).toEqual(['<<: is no setting'])
  })
  test('a missing file says what to do', () => {
    try {
      load({ path: '/nowhere.yaml', env: {}, readFile: readerOf({}) })
      expect.unreachable()
    } catch (fault) {
      expect((fault as CurfewError).facts).toMatchObject({ reason: 'config_missing' })
      expect((fault as CurfewError).message).toContain('/nowhere.yaml')
    }
  })
})

describe('K8: variables that turn off certificate verification', () => {
  const bad: [string, string][] = [
    ['NODE_TLS_REJECT_UNAUTHORIZED', '0'],
    ['VAULT_SKIP_VERIFY', 'true'],
    ['VAULT_SKIP_VERIFY', '1'],
  ]
  test.each(bad)('%s=%s refuses the start in production', (name, value) => {
    const problems = problemsOf(EXAMPLE, { env: { [name]: value } })
    expect(problems).toHaveLength(1)
    expect(problems[0]).toMatch(new RegExp(`^${name}: turns off TLS verification`))
  })
  test('the twin: they pass in dev mode, and harmless values pass anywhere', () => {
    expect(
      problemsOf(
        bent(t => (t.mode = 'dev')),
        { env: { NODE_TLS_REJECT_UNAUTHORIZED: '0', VAULT_SKIP_VERIFY: '1' } },
      ),
    ).toEqual([])
    expect(problemsOf(EXAMPLE, { env: { NODE_TLS_REJECT_UNAUTHORIZED: '1', VAULT_SKIP_VERIFY: 'false' } })).toEqual([])
  })
})
