/** Owns what a workload can learn of itself before it asks for anything. */
import type { Express } from 'express'
import { z } from 'zod'
import { type Doors, route } from './route.js'
import { describeBody } from './schemas.js'
import { evidenceShape, offerShape } from './shapes.js'
import { evidenceView, offerView } from './views.js'

export function evidenceRoutes(app: Express, doors: Doors): void {
  const audienceOf = new Map(doors.audiences.map(a => [a.name, a]))

  route(app, doors, {
    method: 'post',
    // A literal colon: `:explain` is a verb of the collection, not a parameter.
    path: '/v1/evidence\\:explain',
    who: 'public',
    asks: true,
    summary: 'What this evidence is believed to be, and what it may ask for; nothing is issued, and it is not used up',
    shows: [[], ['proof']],
    json: describeBody,
    successes: { 200: { body: z.object({ evidence: evidenceShape, capabilities: z.array(offerShape), now: z.iso.datetime({ precision: 3 }) }) } },
    refuses: ['attestation_refused', 'proof_refused', 'unavailable'],
    answer: async ({ body, presented, signal }) => {
      const described = await doors.broker.describe(
        { evidence: { type: 'jwt', token: body.subject_token }, presented, purpose: body.purpose, labels: body.labels },
        signal,
      )
      return {
        status: 200,
        body: {
          evidence: evidenceView(described),
          capabilities: described.offers.map(o => offerView(o, audienceOf.get(o.capability.audience ?? ''), doors.paramsOf(o.capability))),
          now: described.at.toISOString(),
        },
      }
    },
  })
}
