/** Owns the proof that the witness sees a lie: an application that answers otherwise than it declares, in each way there is. */
import express, { type Express } from 'express'
import supertest from 'supertest'
import { beforeEach, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { type Declaration, declare } from '../../src/http/declaration.js'
import { lies, witnessed } from '../witness.js'

const thing = z.object({ id: z.string(), count: z.int() })
const DECLARED: Declaration = {
  method: 'post',
  path: '/v1/things/:id',
  who: 'public',
  summary: 'A sample',
  json: z.strictObject({ name: z.string().max(5) }),
  headers: { 'X-Kind': z.enum(['a', 'b']).optional() },
  successes: { 201: { body: z.object({ thing }), headers: { Location: z.string().regex(/^\/v1\//) } } },
  refuses: ['not_found'],
}
const PROBLEM = {
  type: 'https://x.example/e/not_found',
  title: 'Not found',
  status: 404,
  detail: 'no',
  code: 'not_found',
  request_id: 'r',
  agent_action: 'stop',
}

interface Told {
  status?: number
  body?: unknown
  type?: string
  headers?: Record<string, string>
}

/** Reads the request as ours do, and answers what it is told to. */
function sample(told: Told): Express {
  const app = express()
  declare(app, DECLARED)
  app.post('/v1/things/:id', async (req, res) => {
    for await (const _ of req);
    res.set({ 'X-Request-ID': 'r', Location: '/v1/things/1', ...told.headers }).type(told.type ?? 'application/json')
    res.status(told.status ?? 201).end(JSON.stringify(told.body ?? { thing: { id: 'x', count: 1 } }))
  })
  return witnessed(app, 'https://x.example')
}

const seen = async (told: Told, body: object = { name: 'five' }, headers: Record<string, string> = {}) => {
  await supertest(sample(told)).post('/v1/things/1').set(headers).send(body)
  return lies.splice(0).join('\n')
}

beforeEach(() => void lies.splice(0))

describe('the witness', () => {
  it('says nothing of what is as it was declared', async () => {
    expect(await seen({})).toBe('')
    expect(await seen({}, { name: 'five' }, { 'X-Kind': 'a' })).toBe('')
    expect(await seen({ status: 404, type: 'application/problem+json', body: { ...PROBLEM, retry_after: null } })).toBe('')
  })

  it.each<[string, Told, RegExp]>([
    ['a status', { status: 200 }, /→ 200: this status is not declared/],
    ['a member that is missing', { body: { thing: { id: 'x' } } }, /must have required property 'count'/],
    ['a member more', { body: { thing: { id: 'x', count: 1, secret: 's' } } }, /must NOT have additional properties.*secret/],
    ['a type', { body: { thing: { id: 'x', count: '1' } } }, /thing\/count must be integer/],
    ['a media type', { type: 'text/plain' }, /the type text\/plain; charset=utf-8 is not declared/],
    ['a header', { headers: { Location: 'elsewhere' } }, /the header Location: .*must match pattern/],
    ['a code', { status: 404, type: 'application/problem+json', body: { ...PROBLEM, code: 'conflict', retry_after: null } }, /code must be equal to one of/],
  ])('sees %s that was not declared', async (_, told, wanted) => expect(await seen(told)).toMatch(wanted))

  it('sees what was accepted although the description refuses it', async () => {
    expect(await seen({}, { name: 'sixsix' })).toMatch(/accepted with the body: \/name must NOT have more than 5 characters/)
    expect(await seen({}, { name: 'five', more: 1 })).toMatch(/accepted with the body: .*additional properties/)
    expect(await seen({}, { name: 'five' }, { 'X-Kind': 'c' })).toMatch(/accepted with X-Kind: .*must be equal to one of/)
  })
})
