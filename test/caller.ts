/** Owns a caller for tests: a proof key in memory and the requests of docs/http-api.md, through supertest. */
import { createHash, randomBytes } from 'node:crypto'
import { calculateJwkThumbprint, exportJWK, generateKeyPair, type JWTPayload, SignJWT } from 'jose'
import supertest, { type Response } from 'supertest'
import { type House, SERVER } from './house.js'

export const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange'
export const JWT_BEARER = 'urn:ietf:params:oauth:grant-type:jwt-bearer'
export const ID_TOKEN = 'urn:ietf:params:oauth:token-type:id_token'

export interface Held {
  readonly task: string
  readonly token: string
}

export interface Caller {
  readonly jkt: string
  proof(method: string, path: string, token?: string, claims?: JWTPayload, header?: Record<string, unknown>): Promise<string>
  open(body?: Record<string, unknown>): Promise<Response>
  opened(body?: Record<string, unknown>): Promise<Held>
  exchange(form: Record<string, string>): Promise<Response>
  /** A request as the holder of a task. */
  as(held: Held, method: 'get' | 'post' | 'delete', path: string, body?: unknown, headers?: Record<string, string>): Promise<Response>
  credential(held: Held, capability: string, body?: Record<string, unknown>, headers?: Record<string, string>): Promise<Response>
}

export async function caller(house: House): Promise<Caller> {
  const { publicKey, privateKey } = await generateKeyPair('ES256')
  const jwk = await exportJWK(publicKey)
  const http = supertest(house.http)

  async function proof(method: string, path: string, token?: string, claims: JWTPayload = {}, header: Record<string, unknown> = {}): Promise<string> {
    return new SignJWT({
      jti: randomBytes(12).toString('hex'),
      htm: method.toUpperCase(),
      htu: SERVER + path,
      iat: house.now(),
      ...(token === undefined ? {} : { ath: createHash('sha256').update(token).digest('base64url') }),
      ...claims,
    })
      .setProtectedHeader({ alg: 'ES256', typ: 'dpop+jwt', jwk, ...header })
      .sign(privateKey)
  }

  const open: Caller['open'] = async (body = {}) =>
    http
      .post('/v1/tasks')
      .set('DPoP', await proof('POST', '/v1/tasks'))
      .send({ subject_token: body.subject_token ?? (await house.evidence()), purpose: 'nightly report', capabilities: ['demo/orders-ro'], ...body })

  const as: Caller['as'] = async (held, method, path, body, headers = {}) => {
    const request = http[method](path)
      .set('Authorization', `DPoP ${held.token}`)
      .set('DPoP', await proof(method, path.split('?')[0] as string, held.token))
      .set(headers)
    return body === undefined ? request : request.send(body as object)
  }

  return {
    jkt: await calculateJwkThumbprint(jwk),
    proof,
    open,
    async opened(body) {
      const answer = await open(body)
      if (answer.status !== 201) throw new Error(`the task was not opened: ${answer.status} ${JSON.stringify(answer.body)}`)
      return { task: answer.body.task.id, token: answer.body.token }
    },
    exchange: async form =>
      http
        .post('/oauth2/token')
        .type('form')
        .set('DPoP', await proof('POST', '/oauth2/token'))
        .send({ grant_type: EXCHANGE, subject_token_type: ID_TOKEN, ...form }),
    as,
    credential: (held, capability, body = {}, headers = {}) => as(held, 'post', `/v1/tasks/${held.task}/credentials`, { capability, ...body }, headers),
  }
}

export async function introspect(house: House, token: string, server = 'orders', secret?: string): Promise<Response> {
  const { ORDERS_SECRET } = await import('./house.js')
  return supertest(house.http)
    .post('/oauth2/introspect')
    .auth(server, secret ?? ORDERS_SECRET)
    .type('form')
    .send({ token })
}
