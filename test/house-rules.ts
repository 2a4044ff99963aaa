/** Owns the rules of the house as functions over the text of files, so that each rule can be shown a bad house before it judges the good one. */
import { dirname, join, normalize } from 'node:path/posix'

/** By path from the root of the repository, with `/`. */
export type House = ReadonlyMap<string, string>

export interface Finding {
  readonly file: string
  readonly line: number
  readonly what: string
}

export interface Import {
  readonly file: string
  readonly line: number
  /** A file of the house, or the name of a package. */
  readonly target: string
  readonly typeOnly: boolean
}

/** Blanks comments, keeps line breaks and strings: a rule must not stumble over prose, nor a string hide code behind `//`. */
export function code(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`/g, part =>
    part.startsWith('/') ? part.replace(/[^\n]/g, ' ') : part,
  )
}

const lineAt = (text: string, offset: number) => text.slice(0, offset).split('\n').length

/** `import … from`, `export … from`, bare `import '…'` and `import('…')`. */
export function importsOf(file: string, text: string): Import[] {
  const found: Import[] = []
  const plain = code(text)
  const statement = /(?:^|[\n;])\s*(?:import|export)\s+(type\s+)?(?:[\w*{}\s,$]+?\s+from\s+)?'([^'\n]+)'|\bimport\(\s*'([^'\n]+)'/g
  for (const match of plain.matchAll(statement)) {
    const named = (match[2] ?? match[3]) as string
    const target = named.startsWith('.') ? normalize(join(dirname(file), named)).replace(/\.js$/, '.ts') : named === '#failpoint' ? 'src/failpoint.ts' : named
    // `import { type A, type B }` leaves nothing at run time either.
    const names = /\{([^}]*)\}/.exec(match[0])?.[1]
    const typeOnly =
      match[1] !== undefined ||
      (names !== undefined && !/import\s+\w+\s*,/.test(match[0]) && names.split(',').every(n => n.trim() === '' || n.trim().startsWith('type ')))
    found.push({ file, line: lineAt(plain, match.index + match[0].length), target, typeOnly })
  }
  return found
}

/** A room is a folder of `src/`, `workers/`, or one of the files that stand alone in `src/`. */
export function roomOf(file: string): string {
  const [top, second = '', ...deeper] = file.split('/')
  if (top !== 'src') return top as string
  if (deeper.length > 0) return second
  return second.replace(/\.ts$/, '').replace(/^(config|compose)-.*/, '$1')
}

const ADAPTERS = ['attestors', 'policy', 'engines', 'signers', 'store', 'queue', 'clients', 'feed']
const NOUNS = ['domain', 'ports']
/** How we connect is asked by the adapters that connect; `config` by those whose settings are a type of it. */
const ADAPTER = {
  may: [...NOUNS, 'clients', 'config'],
  because: 'an adapter fulfils a port and knows neither the verbs nor another adapter; they meet in compose.ts',
}

/** What each room may import beside itself (architecture.md, rule 10), and the reason that the message gives. */
export const ROOMS: Readonly<Record<string, { readonly may: readonly string[]; readonly because: string }>> = {
  domain: { may: [], because: 'nouns and pure rules depend on nothing of ours' },
  ports: { may: ['domain'], because: 'a port speaks in nouns' },
  contract: { may: NOUNS, because: 'engines outside this repository are written against it, without our broker' },
  failpoint: { may: [], because: 'it must be possible to replace it by nothing' },
  hardening: { may: [], because: 'it runs before anything else' },
  config: { may: ['domain'], because: 'settings are judged before anything is built' },
  log: { may: ['domain'], because: 'everybody logs, so a log may know nobody' },
  broker: { may: [...NOUNS, 'failpoint'], because: 'the verbs know ports, never who fulfils them' },
  ...Object.fromEntries(ADAPTERS.map(name => [name, ADAPTER])),
  metrics: { may: [...NOUNS, 'broker'], because: 'it fulfils the meter of the broker and counts what it is told' },
  loops: { may: [...NOUNS, 'broker', 'log'], because: 'a loop wakes verbs' },
  http: { may: [...NOUNS, 'broker', 'log'], because: 'doors call verbs; which adapters stand behind them is not theirs to know' },
  guard: { may: ['domain'], because: 'resource servers import it without our broker' },
  client: { may: ['domain'], because: 'workloads import it without our broker' },
  compose: {
    may: [...NOUNS, 'broker', 'config', 'contract', 'log', 'metrics', ...ADAPTERS],
    because: 'it names implementations, and nothing that stands above it',
  },
  readiness: { may: [...NOUNS, 'broker', 'compose', 'http', 'log'], because: 'it answers over a composed app' },
  serve: {
    may: [...NOUNS, 'broker', 'config', 'compose', 'feed', 'http', 'log', 'loops', 'metrics', 'readiness'],
    because: 'it hangs doors and loops on a composed app',
  },
  cli: {
    may: [...NOUNS, 'config', 'log', 'dev', 'client', ...ADAPTERS],
    because: 'commands talk to a running broker, or to the store as an administrator; entries are started as processes, so that nothing points back',
  },
  dev: { may: [...NOUNS, 'config', 'log', 'guard', 'client', ...ADAPTERS], because: 'everything local starts the product as a process, as anybody else does' },
  entry: { may: [...NOUNS, 'hardening'], because: 'how a process begins and ends, whatever it is' },
  main: { may: ['*'], because: 'an entry may name everything' },
  workers: { may: ['*'], because: 'an entry may name everything; src never imports workers' },
}

export function backwardImports(house: House): Finding[] {
  const findings: Finding[] = []
  for (const { file, line, target } of allImports(house)) {
    if (!target.startsWith('src/') && !target.startsWith('workers/') && !/^(test|bench|scripts|bin|dist|examples)\//.test(target)) continue
    const [from, to] = [roomOf(file), roomOf(target)]
    if (from === to) continue
    const room = ROOMS[from]
    if (!room) findings.push({ file, line, what: `the room ${from} has no line in ROOMS of test/house-rules.ts: say what it may import, and why` })
    else if (!ROOMS[to] || to === 'main' || to === 'workers' || !(room.may.includes('*') || room.may.includes(to)))
      findings.push({ file, line, what: `${from} may not import ${to} (${target}): ${room.because}` })
    else if (!house.has(target)) findings.push({ file, line, what: `imports ${target}, which is not there` })
  }
  return findings
}

/** Files that import each other at run time, told once as the whole circle. */
export function circularImports(house: House): Finding[] {
  const edges = new Map<string, Import[]>()
  for (const item of allImports(house)) if (!item.typeOnly && house.has(item.target)) edges.set(item.file, [...(edges.get(item.file) ?? []), item])
  const findings: Finding[] = []
  const done = new Set<string>()
  const path: string[] = []
  const walk = (file: string): void => {
    if (done.has(file)) return
    path.push(file)
    for (const { target, line } of edges.get(file) ?? []) {
      const at = path.indexOf(target)
      if (at >= 0) findings.push({ file, line, what: `imports in a circle: ${[...path.slice(at), target].join(' → ')}` })
      else walk(target)
    }
    path.pop()
    done.add(file)
  }
  for (const file of house.keys()) walk(file)
  return findings
}

export interface PackageRule {
  readonly packages: RegExp
  readonly only: readonly string[]
  readonly because: string
}

/** Packages that one room alone may import (S6). */
export const PACKAGES: readonly PackageRule[] = [
  { packages: /^bullmq$/, only: ['src/queue/bullmq.ts', 'workers/'], because: 'what BullMQ may be trusted with is decided in one place' },
  {
    packages: /^node-vault$/,
    only: ['src/clients/vault-transport.ts', 'src/clients/vault.ts'],
    because: 'its own transport follows redirects with our token (H18)',
  },
  { packages: /^@cedar-policy\//, only: ['src/policy/'], because: 'bad calls throw instead of denying: one place catches them' },
  { packages: /^undici$/, only: ['src/clients/', 'src/cli/', 'src/dev/'], because: 'every way out is guarded: address, redirects, size, deadline' },
  {
    packages: /^(axios|follow-redirects|got|node-fetch|superagent|request)$/,
    only: [],
    because: 'one HTTP client is enough, and these follow redirects with our headers',
  },
  { packages: /^ioredis$/, only: ['src/clients/redis.ts'], because: 'how Redis fails is decided in one place' },
  { packages: /^(pg|@electric-sql\/pglite)(\/|$)/, only: ['src/store/', 'src/clients/', 'src/dev/'], because: 'rows are the store’s alone' },
  { packages: /^express(\/|$)/, only: ['src/http/', 'src/dev/', 'src/guard/'], because: 'verbs know no HTTP' },
  { packages: /^pino(\/|$)/, only: ['src/log.ts'], because: 'redaction is decided in one place' },
  { packages: /^prom-client$/, only: ['src/metrics.ts'], because: 'names and labels are decided in one place' },
  {
    packages: /^(pkijs|asn1js)$/,
    only: ['src/engines/x509.ts'],
    because: 'foreign bytes are parsed in one place, and what the parser says stays there (T67)',
  },
  { packages: /^yaml$/, only: ['src/config-file.ts', 'src/cli/', 'src/dev/'], because: 'the configuration is read strictly or not at all' },
]

export function misplacedPackages(house: House, rules: readonly PackageRule[] = PACKAGES): Finding[] {
  return allImports(house).flatMap(({ file, line, target }) =>
    rules
      .filter(rule => rule.packages.test(target) && !rule.only.some(place => isWithin(file, place)))
      .map(rule => ({ file, line, what: `imports ${target}, which only ${rule.only.join(', ') || 'nobody'} may: ${rule.because}` })),
  )
}

export interface TextRule {
  readonly name: string
  readonly pattern: RegExp
  /** Where it is looked for; empty: everywhere. */
  readonly within?: readonly string[]
  readonly except: readonly string[]
  readonly because: string
  /** A file with this text declares the name itself. */
  readonly unless?: RegExp
}

const DECIDING = ['src/broker/', 'src/store/', 'src/engines/', 'src/attestors/', 'src/policy/', 'src/domain/']

/** What may stand in the code of some files only. */
export const TEXTS: readonly TextRule[] = [
  {
    name: 'process.env',
    pattern:
      /\bprocess\s*(?:\?\.|\.)\s*env\b|\bprocess\s*\[\s*['"`]env|\{[^}]*\benv\b[^}]*\}\s*=\s*process\b|import\s*\{[^}]*\benv\b[^}]*\}\s*from\s*'(?:node:)?process'/g,
    except: ['src/config.ts', 'src/dev/find.ts', 'src/cli/'],
    because: 'a setting that is read elsewhere has no origin, no check and no name in the documentation',
  },
  {
    name: '.reveal()',
    pattern: /(?:\?\.|\.)\s*reveal\b|\[\s*['"`]reveal/g,
    except: [
      'src/http/', // the hand-over, and the comparison with what a caller presents
      'src/clients/', // our own tokens and passwords, presented
      'src/store/open.ts', // our own password at the database
      'src/signers/sealed.ts', // the master key becomes keys
      'src/cli/operator.ts', // a new operator's token, shown once
      'src/cli/checks.ts', // our own password at Redis
      'src/contract/engine-testing.ts', // what the suite made is presented to the target
      'src/dev/world.ts', // a token of the local world
    ],
    because: 'a Secret has one way out, at the place where it leaves',
  },
  {
    name: 'a process clock',
    pattern: /\bDate\s*\.\s*now\b|\bnew\s+Date\s*(?:\(\s*\)|(?![\s(\w]))|\bDate\s*\(\s*\)|\bprocess\s*\.\s*hrtime\b/g,
    within: DECIDING,
    except: ['src/domain/ids.ts'], // the sortable prefix of an id decides nothing
    because: 'only database time decides; deadlines are measured with performance.now()',
  },
  {
    name: 'a deadline that may never come',
    pattern: /\bAbortSignal\s*\.\s*(?:any|timeout)\b/g,
    except: ['src/domain/deadline.ts'],
    because: 'within() of domain/deadline.ts holds its timer, AbortSignal.any does not',
  },
  {
    name: 'a key pair that may stop its process',
    pattern: /\bgenerateKeyPairSync\b/g,
    except: [],
    because: 'newKeyPair() of domain/key-pair.ts: a collection while the key of its synchronous twin is exported never ends',
  },
  {
    name: 'decodeJwt',
    pattern: /\bdecode(?:Jwt|ProtectedHeader)\b/g,
    except: ['src/domain/jws.ts'],
    because: 'what is not verified is looked at in one place, by exact comparison (security.md section 4)',
  },
  {
    name: 'fetch',
    pattern: /(?<![.\w$])fetch\s*\(/g,
    except: ['src/clients/', 'src/cli/', 'src/dev/'],
    because: 'every way out is guarded: address, redirects, size, deadline',
    unless: /\b(?:function|const|let)\s+fetch\b|[(,{]\s*fetch\s*[:,)}]/,
  },
  { name: 'console', pattern: /\bconsole\s*\./g, except: ['src/cli/', 'src/dev/'], because: 'the log redacts, console does not' },
  { name: 'eval', pattern: /\beval\s*\(|\bnew\s+Function\b|\bfrom\s+'(?:node:)?vm'/g, except: [], because: 'text is never code (K13)' },
  {
    name: 'Math.random',
    pattern: /\bMath\s*\.\s*random\b/g,
    except: ['src/store/sql.ts', 'src/cli/http.ts', 'src/cli/replace.ts', 'src/cli/evidence/github.ts'], // the scatter of a pause before the next try
    because: 'what can be guessed will be',
  },
  { name: 'an unfinished place', pattern: /\b(?:TODO|FIXME|XXX)\b|not implemented/gi, except: [], because: 'real or not at all' },
]

export function misplacedTexts(house: House, rules: readonly TextRule[] = TEXTS): Finding[] {
  const findings: Finding[] = []
  for (const [file, text] of house) {
    const plain = code(text)
    for (const rule of rules) {
      if (rule.within && !rule.within.some(place => isWithin(file, place))) continue
      if (rule.except.some(place => isWithin(file, place)) || rule.unless?.test(plain)) continue
      // Unfinished places hide in comments.
      const where = rule.name === 'an unfinished place' ? text : plain
      for (const match of where.matchAll(rule.pattern)) findings.push({ file, line: lineAt(where, match.index), what: `${rule.name}: ${rule.because}` })
    }
  }
  return findings
}

/** Tables and contracts may be longer than a screen; a use case may not. */
export const LONG_TABLES: readonly string[] = ['src/config-schema.ts', 'src/ports.ts', 'src/http/error-pages.ts']
const MAX_LINES = 320

export function longFiles(house: House, tables: readonly string[] = LONG_TABLES): Finding[] {
  return [...house]
    .map(([file, text]) => ({ file, lines: text.split('\n').length - (text.endsWith('\n') ? 1 : 0) }))
    .filter(({ file, lines }) => lines > MAX_LINES && !tables.includes(file))
    .map(({ file, lines }) => ({ file, line: lines, what: `has ${lines} lines: above ${MAX_LINES}, split it by meaning` }))
}

/** The first thing in a file says what it owns (or which verb it is). */
export function unopened(house: House): Finding[] {
  return [...house]
    .filter(([, text]) => !/^(?:#![^\n]*\n)?\/\*\*\s*(?:\*\s*)?(?:Owns |Verbs?\b)/.test(text))
    .map(([file]) => ({ file, line: 1, what: 'must open with one sentence that says what it owns: /** Owns … */' }))
}

function allImports(house: House): Import[] {
  return [...house].flatMap(([file, text]) => importsOf(file, text))
}

const isWithin = (file: string, place: string) => (place.endsWith('/') ? file.startsWith(place) : file === place)

/** For the message of a failing test. */
export const told = (findings: readonly Finding[]): string[] => findings.map(f => `${f.file}:${f.line} ${f.what}`)
