/** Owns the flags that several commands share, and what stands in for them: environment, then the file that `curfew dev` writes. */
import { existsSync, readFileSync, statSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { withoutTrailing } from '../domain/trailing.js'
import type { EvidenceFlags } from './evidence/find.js'
import type { EvidenceSource } from './evidence/source.js'
import { CliError, EXIT, usage } from './exit.js'
import type { Broker } from './http.js'
import type { Format, Io } from './output.js'

export interface ServerFlags {
  readonly server?: string
  readonly issuer?: string
  readonly caCert?: string
  readonly insecureHttp?: boolean
}

export interface OutputFlags {
  readonly json?: boolean
  readonly output?: Format
  readonly quiet?: boolean
}

export interface OperatorFlags {
  readonly operatorTokenFile?: string
}

/** @param publicUrl how the flag is called where `--issuer` names a trust issuer. */
export function withServer(command: Command, publicUrl: '--issuer' | '--public-url' = '--issuer'): Command {
  return command
    .option('--server <url>', 'the broker (CURFEW_URL)')
    .option(`${publicUrl} <url>`, 'its public URL, when --server is another address (CURFEW_ISSUER)')
    .option('--ca-cert <file>', 'CA of its certificate (CURFEW_CA_CERT)')
    .option('--insecure-http', 'allow plain http beyond this machine')
}

export function withOutput(command: Command): Command {
  return command
    .option('--json', 'the same as --output json')
    .addOption(new Option('-o, --output <format>', 'how data is printed').choices(['table', 'json', 'name']))
    .option('-q, --quiet', 'no text for people beside errors')
}

/** In the order in which they are looked for when none is named. */
const ATTESTORS = ['github', 'gitlab', 'buildkite', 'circleci', 'azure', 'bitbucket', 'kubernetes', 'spiffe']

export function withEvidence(command: Command): Command {
  return command
    .option('--id-token-file <file>', 'evidence: a token in a file, read at every use')
    .option('--id-token-env <name>', 'evidence: a token in an environment variable')
    .addOption(new Option('--attestor <name>', 'evidence: what this place offers, by name').choices(ATTESTORS))
    .option('--agent <issuer/name>', 'evidence: an agent by its registered key (CURFEW_AGENT)')
    .option('--agent-key <file>', 'its private key, JWK or PEM (CURFEW_AGENT_KEY)')
}

export function withOperator(command: Command): Command {
  return command.option('--operator-token-file <file>', 'operator token (CURFEW_OPERATOR_TOKEN, CURFEW_OPERATOR_TOKEN_FILE)')
}

/** `20s`, `15m`, `1h30m` or bare seconds → seconds. */
export function seconds(text: string): number {
  const match = /^(?=\d)(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,7})s?)?$/.exec(text)
  if (!match) throw new InvalidArgumentError('Say it like 20s, 15m or 1h30m.')
  return Number(match[1] ?? 0) * 3600 + Number(match[2] ?? 0) * 60 + Number(match[3] ?? 0)
}

/** `--label team=data`, repeated. */
export function label(text: string, before: Record<string, string> = {}): Record<string, string> {
  const match = /^([a-z][a-z0-9_-]{0,62})=(.{1,200})$/.exec(text)
  if (!match) throw new InvalidArgumentError('Say it like team=data.')
  return { ...before, [match[1] as string]: match[2] as string }
}

/** The names policy knows (docs/http-api.md); refused here before evidence is used up on a typing error. */
export function capabilityName(text: string): string {
  if (text.length <= 100 && /^[a-z][a-z0-9-]*(\/[a-z0-9][a-z0-9-]*)*$/.test(text)) return text
  throw usage('a capability is named like db/orders-ro')
}

interface DevFile {
  readonly url?: string
  readonly operatorToken?: string
  /** An agent registered in that broker, so that a second terminal can ask at once. */
  readonly agent?: string
  readonly agentKeyFile?: string
}

/** What `curfew dev` left for the second terminal; null when it does not run here. */
function devFile(env: Io['env']): DevFile | null {
  const path = join(env.XDG_CONFIG_HOME || join(env.HOME || homedir(), '.config'), 'curfew', 'dev.json')
  if (!existsSync(path)) return null
  // Whoever else can write it can choose where our evidence goes.
  if ((statSync(path).mode & 0o022) !== 0) throw usage(`${path} can be written by others`, `chmod 600 ${path}`)
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as DevFile
  } catch {
    throw usage(`${path} cannot be read`, 'remove it, or start `curfew dev` again')
  }
}

export async function connect(flags: ServerFlags, io: Io): Promise<Broker> {
  const url = flags.server || io.env.CURFEW_URL || devFile(io.env)?.url
  if (!url) throw usage('which broker?', 'name it with --server or CURFEW_URL, or start one here: curfew dev')
  const { brokerAt } = await import('./http.js')
  return brokerAt({
    url,
    issuer: flags.issuer || io.env.CURFEW_ISSUER || undefined,
    caFile: flags.caCert || io.env.CURFEW_CA_CERT || undefined,
    insecureHttp: flags.insecureHttp === true || io.env.CURFEW_INSECURE_HTTP === '1',
  })
}

export async function evidence(flags: EvidenceFlags & ServerFlags, io: Io, broker: Broker): Promise<EvidenceSource> {
  const { findEvidence } = await import('./evidence/find.js')
  const dev = devFile(io.env)
  // Its agent means something to that broker only.
  const ours = dev?.url !== undefined && sameUrl(dev.url, broker.url)
  // As the server calls itself, when that was said; asked it is only where a token is made.
  const audience = flags.issuer || io.env.CURFEW_ISSUER || broker.url
  return findEvidence(flags, { env: io.env, audience, ...(ours ? { dev: { agent: dev.agent, agentKey: dev.agentKeyFile } } : {}) })
}

/** @returns null when there is none: a holder may still look at its own. */
export async function operatorToken(flags: OperatorFlags, io: Io, broker: Broker): Promise<string | null> {
  const { env } = io
  const file = flags.operatorTokenFile ?? (env.CURFEW_OPERATOR_TOKEN ? undefined : env.CURFEW_OPERATOR_TOKEN_FILE)
  if (file) {
    try {
      return await checkedToken(readFileSync(file, 'utf8'), `the file ${file}`)
    } catch (cause) {
      if (cause instanceof CliError) throw cause
      throw new CliError(EXIT.usage, { code: 'usage', detail: `the operator token file cannot be read: ${file}` }, { cause })
    }
  }
  if (env.CURFEW_OPERATOR_TOKEN) return checkedToken(env.CURFEW_OPERATOR_TOKEN, 'CURFEW_OPERATOR_TOKEN')
  const dev = devFile(env)
  // Only ever shown to the broker that it belongs to.
  return dev?.url !== undefined && dev.operatorToken !== undefined && sameUrl(dev.url, broker.url) ? dev.operatorToken : null
}

/** Its checksum tells a mistyped token, or some other secret that should not travel, before it is sent. */
async function checkedToken(text: string, where: string): Promise<string> {
  const { looksLikeOperatorToken } = await import('../domain/operator-token.js')
  const token = text.trim()
  if (looksLikeOperatorToken(token)) return token
  throw usage(`${where} holds no operator token (curfew_operator_…)`)
}

export async function demandOperatorToken(flags: OperatorFlags, io: Io, broker: Broker): Promise<string> {
  const token = await operatorToken(flags, io, broker)
  if (token !== null) return token
  throw new CliError(EXIT.refused, {
    code: 'operator_token_missing',
    detail: 'this is for operators',
    next: 'name a token: --operator-token-file FILE or CURFEW_OPERATOR_TOKEN; an admin makes one with: curfew operator add NAME --role responder',
  })
}

const sameUrl = (a: string, b: string) => withoutTrailing(a, '/') === b
