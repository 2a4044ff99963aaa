/** Owns a plan as responders meet it: what a revocation would hit, before anything is ended. */
import { member } from './holder.js'
import type { Auth, Broker } from './http.js'
import { clockTime, plain } from './output.js'
import type { Selector } from './selectors.js'

export interface Reach {
  readonly credentials: number
  readonly tasks: number
  readonly instant: number
  readonly backend: number
  readonly expiry_only: number
  readonly engines: Readonly<Record<string, number>>
  readonly capabilities: number | readonly string[]
  readonly owners: readonly { readonly owner: string | null; readonly tasks: number }[]
  readonly exposed: readonly Exposed[]
  readonly exposed_until: string | null
}

export interface Exposed {
  readonly credential: string
  readonly capability: string
  readonly until: string
}

export interface PlanView {
  readonly id: string
  readonly selector: Selector
  readonly reason: string | null
  readonly made_at: string
  readonly valid_until: string
  readonly revocation: string | null
  readonly reach: Reach
}

export async function makePlan(broker: Broker, auth: Auth, selector: Selector, reason: string, signal: AbortSignal): Promise<PlanView> {
  const { body } = await broker.call({ method: 'POST', path: '/v1/plans', auth, body: () => ({ selector, reason }), timeoutMs: 60_000 }, signal)
  return member<PlanView>(body, 'plan')
}

export const counted = (n: number, one: string, many = `${one}s`) => `${n} ${n === 1 ? one : many}`

/** The two lines of ux.md 3.4, and until when they are good. */
export function tellPlan({ id, reach, valid_until, revocation }: PlanView): string {
  const capabilities = typeof reach.capabilities === 'number' ? reach.capabilities : reach.capabilities.length
  const head = [
    counted(reach.credentials, 'credential'),
    counted(capabilities, 'capability', 'capabilities'),
    `${counted(reach.tasks, 'task')} running`,
    ...(reach.owners.length > 0 ? [`${reach.owners.length === 1 ? 'owner' : 'owners'} ${reach.owners.map(ownerOf(reach.owners.length > 1)).join(', ')}`] : []),
  ]
  const engines = Object.entries(reach.engines).map(([name, n]) => `${name} ${n}`)
  const classes = [
    `instant ${reach.instant}`,
    `backend ${reach.backend}`,
    `expiry-only ${reach.expiry_only}${reach.exposed_until ? `: exposed until ${clockTime(reach.exposed_until)}Z (${kinds(reach.exposed)})` : ''}`,
  ]
  const end = revocation ? `executed: ${revocation}` : `nothing is ended yet; good until ${clockTime(valid_until)}Z`
  return [`plan ${id}: ${head.join(', ')}`, `  ${classes.join('   ')}`, ...(engines.length > 0 ? [`  engines ${engines.join(', ')}`] : []), `  ${end}`]
    .map(plain)
    .join('\n')
}

const ownerOf = (several: boolean) => (o: Reach['owners'][number]) => `${o.owner ?? 'nobody'}${several ? ` (${o.tasks})` : ''}`

const kinds = (exposed: readonly Exposed[]) => [...new Set(exposed.map(e => e.capability))].join(', ')
