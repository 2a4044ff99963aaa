/** Owns where a workload's evidence comes from: what the caller names, else what the platform offers, strongest first. */
import { createPrivateKey, type KeyObject, randomUUID } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { within } from '../domain/deadline.js'
import { CliError, EXIT, usage } from './exit.js'

export interface EvidenceSource {
  /** For people: where it came from. */
  readonly name: string
  readonly type: 'urn:ietf:params:oauth:token-type:id_token' | 'urn:ietf:params:oauth:token-type:jwt'
  /** One token for a whole CI job, whatever asks: its proof key is the job's (security.md 4, step 8). */
  readonly perJob: boolean
  /** @param audience the server's own name for itself. A new token where the source can make one, the same one where it cannot. */
  fresh(audience: string, signal: AbortSignal): Promise<string>
}

export interface EvidenceFlags {
  readonly idTokenFile?: string | undefined
  readonly idTokenEnv?: string | undefined
  readonly agent?: string | undefined
  readonly agentKey?: string | undefined
}

export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>
  /** Where a projected volume with our audience is mounted by convention. */
  readonly kubernetesFile?: string
  /** From `curfew dev`: an agent that is registered there. */
  readonly dev?: { readonly agent?: string | undefined; readonly agentKey?: string | undefined }
}

export const KUBERNETES_FILE = '/var/run/secrets/curfew/token'
const ID_TOKEN = 'urn:ietf:params:oauth:token-type:id_token'
const JWT = 'urn:ietf:params:oauth:token-type:jwt'
const ASSERTION_SECONDS = 120

export function findEvidence(flags: EvidenceFlags, around: Surroundings): EvidenceSource {
  const { env } = around
  const named = [flags.idTokenFile, flags.idTokenEnv, flags.agent].filter(flag => flag !== undefined)
  if (named.length > 1) throw usage('name one source of evidence: --id-token-file, --id-token-env or --agent')
  if (flags.agentKey !== undefined && flags.agent === undefined && !env.CURFEW_AGENT) throw usage('--agent-key needs --agent ISSUER/NAME')
  if (flags.idTokenFile !== undefined) return fromFile(flags.idTokenFile)
  if (flags.idTokenEnv !== undefined) return fromEnv(flags.idTokenEnv, env)
  if (flags.agent !== undefined) return fromAgent(flags.agent, flags.agentKey ?? env.CURFEW_AGENT_KEY)

  if (env.CURFEW_ID_TOKEN) return fromEnv('CURFEW_ID_TOKEN', env)
  if (env.CURFEW_ID_TOKEN_FILE) return fromFile(env.CURFEW_ID_TOKEN_FILE)
  if (env.ACTIONS_ID_TOKEN_REQUEST_URL && env.ACTIONS_ID_TOKEN_REQUEST_TOKEN)
    return fromGitHub(env.ACTIONS_ID_TOKEN_REQUEST_URL, env.ACTIONS_ID_TOKEN_REQUEST_TOKEN)
  const kubernetes = around.kubernetesFile ?? KUBERNETES_FILE
  if (existsSync(kubernetes)) return { ...fromFile(kubernetes), name: `Kubernetes projected token ${kubernetes}` }
  if (env.CURFEW_AGENT) return fromAgent(env.CURFEW_AGENT, flags.agentKey ?? env.CURFEW_AGENT_KEY)
  if (around.dev?.agent !== undefined) return fromAgent(around.dev.agent, around.dev.agentKey)
  // The one line that a workflow's log highlights (ux.md 2.1).
  if (env.GITHUB_ACTIONS === 'true')
    throw missing('this job may not ask for an id token', 'add to the job:  permissions: { id-token: write, contents: read }', true)
  throw missing('nothing here says what this workload is', 'name its evidence: --id-token-file FILE, CURFEW_ID_TOKEN, or --agent ISSUER/NAME --agent-key FILE')
}

function missing(detail: string, next: string, annotate = false): CliError {
  return new CliError(EXIT.refused, { code: 'evidence_missing', detail, next, ...(annotate ? { annotation: `::error::curfew: ${detail}; ${next}` } : {}) })
}

const unavailable = (detail: string, next?: string, cause?: unknown) =>
  new CliError(EXIT.refused, { code: 'evidence_unavailable', detail, ...(next === undefined ? {} : { next }) }, { cause })

function fromFile(path: string): EvidenceSource {
  return {
    name: `file ${path}`,
    type: JWT,
    perJob: false,
    // Read every time: agents replace such files before they expire.
    async fresh() {
      let text: string
      try {
        text = readFileSync(path, 'utf8').trim()
      } catch (cause) {
        throw unavailable(`the evidence file cannot be read: ${path}`, undefined, cause)
      }
      return shaped(text, `the file ${path}`)
    },
  }
}

function fromEnv(name: string, env: Surroundings['env']): EvidenceSource {
  const token = env[name]?.trim()
  if (!token) throw unavailable(`the environment variable ${name} holds no evidence`)
  return { name: `environment ${name}`, type: JWT, perJob: true, fresh: async () => shaped(token, name) }
}

/** A token has three parts and no space; anything else is a mistake that should not travel. */
function shaped(token: string, where: string): string {
  if (/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) return token
  throw unavailable(`${where} holds no signed token (JWT)`)
}

/** GitHub's and Gitea's runners: a fresh token for our audience at every request. */
function fromGitHub(requestUrl: string, requestToken: string): EvidenceSource {
  return {
    name: 'GitHub Actions',
    type: ID_TOKEN,
    perJob: false,
    async fresh(audience, signal) {
      const url = new URL(requestUrl)
      url.searchParams.set('audience', audience)
      for (let attempt = 0; ; attempt++) {
        try {
          const response = await fetch(url, {
            headers: { Authorization: `bearer ${requestToken}`, Accept: 'application/json' },
            redirect: 'error',
            signal: within(10_000, signal),
          })
          if (response.ok) return shaped(((await response.json()) as { value?: string }).value ?? '', "the runner's answer")
          await response.body?.cancel()
          if (response.status < 500 && response.status !== 429)
            throw unavailable(`the runner refused an id token (${response.status})`, 'check permissions: id-token: write')
          if (attempt >= 3) throw unavailable(`the runner's token service failed (${response.status})`)
        } catch (error) {
          if (error instanceof CliError) throw error
          if (signal.aborted) throw signal.reason
          if (attempt >= 3) throw unavailable("the runner's token service cannot be reached", undefined, error)
        }
        await new Promise(resolve => setTimeout(resolve, Math.random() * 300 * 2 ** attempt))
      }
    },
  }
}

/** An agent's own registered key: it states itself (RFC 7523), which is the weakest evidence there is. */
function fromAgent(agent: string, keyFile: string | undefined): EvidenceSource {
  if (!/^[a-z][a-z0-9-]*\/[a-z][a-z0-9-]*$/.test(agent)) throw usage('--agent is ISSUER/NAME, as it is registered')
  if (!keyFile) throw usage('an agent needs its private key: --agent-key FILE or CURFEW_AGENT_KEY')
  const id = agent.replace('/', ':agent=')
  return {
    name: `agent ${agent}`,
    type: JWT,
    perJob: false,
    async fresh(audience) {
      const key = readKey(keyFile)
      const { SignJWT } = await import('jose/jwt/sign')
      const now = Math.floor(Date.now() / 1000)
      return new SignJWT({ iss: id, sub: id, aud: audience, jti: randomUUID(), iat: now, exp: now + ASSERTION_SECONDS })
        .setProtectedHeader({ alg: algOf(key), typ: 'client-authentication+jwt' })
        .sign(key)
    },
  }
}

function readKey(path: string): KeyObject {
  try {
    const text = readFileSync(path, 'utf8')
    return text.trimStart().startsWith('{') ? createPrivateKey({ key: JSON.parse(text), format: 'jwk' }) : createPrivateKey(text)
  } catch {
    // Without the cause: a parser's complaint may quote the key.
    throw unavailable(`the agent's key is no readable private key (JWK or PEM): ${path}`)
  }
}

function algOf(key: KeyObject): string {
  if (key.asymmetricKeyType === 'rsa') return 'RS256'
  if (key.asymmetricKeyType === 'ed25519') return 'EdDSA'
  if (key.asymmetricKeyType === 'ec' && key.asymmetricKeyDetails?.namedCurve === 'prime256v1') return 'ES256'
  throw unavailable("the agent's key must be P-256, RSA or Ed25519")
}
