/** Owns a small client of the HTTP API for the demo: a proof key in memory, and the requests of docs/http-api.md. */
import { createHash, randomUUID } from 'node:crypto'
import { type CryptoKey, calculateJwkThumbprint, exportJWK, generateKeyPair, type JWK, SignJWT } from 'jose'
import { request } from 'undici'

export interface Answer {
  readonly status: number
  // biome-ignore lint/suspicious/noExplicitAny: the demo reads what the page documents, and checks what it reads
  readonly body: any
}

export interface Held {
  readonly task: string
  readonly token: string
}

export interface Workload {
  /** RFC 7638 thumbprint of its key. */
  readonly jkt: string
  proof(method: string, url: string, token?: string): Promise<string>
  /** `evidence` null: below another task, by its `parent_grant`. */
  open(evidence: string | null, capabilities: readonly string[], more?: object): Promise<Answer>
  as(held: Held, method: 'GET' | 'POST', path: string, body?: object): Promise<Answer>
  credential(held: Held, capability: string, more?: object): Promise<Answer>
  complete(held: Held): Promise<Answer>
  /** Shows a token of ours at a resource server, with its proof. */
  use(url: string, token: string, scheme?: 'DPoP' | 'Bearer'): Promise<Answer>
  /** The same of an answer that takes long, once its first part is there. */
  download(url: string, token: string): Promise<Download>
}

export interface Download {
  readonly status: number
  readonly bytes: () => number
  /** Whether it came to its end or was cut. */
  readonly ended: Promise<'whole' | 'cut'>
}

export async function call(method: string, url: string, options: { headers?: Record<string, string>; body?: string } = {}): Promise<Answer> {
  const { statusCode, body } = await request(url, { method: method as 'GET', ...options, headersTimeout: 20_000 })
  const text = await body.text()
  return { status: statusCode, body: text === '' ? null : JSON.parse(text) }
}

export async function createWorkload(server: string): Promise<Workload> {
  const { publicKey, privateKey } = await generateKeyPair('ES256')
  const jwk: JWK = await exportJWK(publicKey)
  const proof = (method: string, url: string, token?: string) => proofBy(privateKey, jwk, method, url, token)
  const json = { 'content-type': 'application/json' }
  const shown = async (url: string, token: string, scheme: 'DPoP' | 'Bearer' = 'DPoP') => ({
    headers: { authorization: `${scheme} ${token}`, ...(scheme === 'DPoP' ? { dpop: await proof('GET', url, token) } : {}) },
  })

  const as: Workload['as'] = async (held, method, path, body) =>
    call(method, server + path, {
      headers: { ...(body ? json : {}), authorization: `DPoP ${held.token}`, dpop: await proof(method, server + path, held.token) },
      ...(body ? { body: JSON.stringify(body) } : {}),
    })
  return {
    jkt: await calculateJwkThumbprint(jwk),
    proof,
    as,
    open: async (evidence, capabilities, more = {}) =>
      call('POST', `${server}/v1/tasks`, {
        headers: { ...json, dpop: await proof('POST', `${server}/v1/tasks`) },
        body: JSON.stringify({ ...(evidence === null ? {} : { subject_token: evidence }), purpose: 'demo', capabilities, ...more }),
      }),
    credential: (held, capability, more = {}) => as(held, 'POST', `/v1/tasks/${held.task}/credentials`, { capability, ...more }),
    complete: held => as(held, 'POST', `/v1/tasks/${held.task}/complete`, {}),
    use: async (url, token, scheme) => call('GET', url, await shown(url, token, scheme)),
    async download(url, token) {
      const { statusCode, body } = await request(url, { method: 'GET', ...(await shown(url, token)), headersTimeout: 20_000 })
      let bytes = 0
      const first = new Promise<void>(resolve => {
        body.on('data', (part: Buffer) => {
          bytes += part.length
          resolve()
        })
      })
      const ended = new Promise<'whole' | 'cut'>(resolve => body.once('end', () => resolve('whole')).once('error', () => resolve('cut')))
      await Promise.race([first, ended])
      return { status: statusCode, bytes: () => bytes, ended }
    },
  }
}

async function proofBy(key: CryptoKey, jwk: JWK, method: string, url: string, token?: string): Promise<string> {
  const ath = token === undefined ? {} : { ath: createHash('sha256').update(token).digest('base64url') }
  return new SignJWT({ jti: randomUUID(), htm: method, htu: url, ...ath }).setProtectedHeader({ alg: 'ES256', typ: 'dpop+jwt', jwk }).setIssuedAt().sign(key)
}
