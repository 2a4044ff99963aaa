/** Owns evidence that the caller names: a file, an environment variable, an agent's registered key. */
import { createPrivateKey, type KeyObject, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { usage } from '../exit.js'
import { type Env, type EvidenceSource, JWT, shaped, unavailable } from './source.js'

const ASSERTION_SECONDS = 120

export function fromFile(path: string): EvidenceSource {
  return {
    name: `file ${path}`,
    type: JWT,
    job: [],
    advice: {},
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

/** One token for all that the job does. */
export function fromEnv(name: string, env: Env): EvidenceSource {
  const token = env[name]?.trim()
  if (!token) throw unavailable(`the environment variable ${name} holds no evidence`)
  return { name: `environment ${name}`, type: JWT, job: [name], variables: [name], advice: {}, fresh: async () => shaped(token, name) }
}

/** An agent's own registered key: it states itself (RFC 7523), which is the weakest evidence there is. */
export function fromAgent(agent: string, keyFile: string | undefined): EvidenceSource {
  if (!/^[a-z][a-z0-9-]*\/[a-z][a-z0-9-]*$/.test(agent)) throw usage('--agent is ISSUER/NAME, as it is registered')
  if (!keyFile) throw usage('an agent needs its private key: --agent-key FILE or CURFEW_AGENT_KEY')
  const id = agent.replace('/', ':agent=')
  return {
    name: `agent ${agent}`,
    type: JWT,
    job: [],
    advice: {},
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
