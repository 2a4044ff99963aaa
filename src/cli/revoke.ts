/** Owns `curfew revoke`: the responder's one way in, and the honest answer to "is it dead". */
import { Command } from 'commander'
import { within } from '../domain/deadline.js'
import { EXIT, usage } from './exit.js'
import type { CredentialView, Ending, RevocationView } from './holder.js'
import type { Auth, Broker } from './http.js'
import {
  connect,
  demandOperatorToken,
  type OperatorFlags,
  type OutputFlags,
  type ServerFlags,
  seconds,
  withOperator,
  withOutput,
  withServer,
} from './options.js'
import { clockTime, type Io, plain, printer } from './output.js'

interface Flags extends ServerFlags, OutputFlags, OperatorFlags {
  readonly credential?: string
  readonly task?: string
  readonly identity?: string
  readonly reason: string
  readonly wait: number
}

const MOST = 1_000

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const revoke = new Command('revoke')
    .summary('end a credential, a task or all of an identity')
    .description(
      'Ends what is named: refused when the answer comes, destroyed at its target, and then probed. Exit 10 when something\nis stuck, cannot be ended early, or was not seen dead in time.',
    )
    .option('--credential <id>', 'one credential')
    .option('--task <id>', 'a task and everything below it')
    .option('--identity <uri>', 'all that a workload identity holds')
    .requiredOption('--reason <text>', 'why: an incident number, a sentence')
    .option('--wait <time>', 'how long to wait for the proof of death', seconds, 10)
  withOutput(withOperator(withServer(revoke)))
  revoke.addHelpText('after', '\nExample:\n  $ curfew revoke --identity github:repository_id=456789 --reason INC-204')
  return revoke.action(async (flags: Flags) => done(await act(flags, io)))
}

type Selector = { readonly credential: string } | { readonly task: string } | { readonly identity: string }

async function act(flags: Flags, io: Io): Promise<number> {
  const print = printer(io, flags)
  const selector = selectorOf(flags)
  const broker = await connect(flags, io)
  const auth: Auth = { kind: 'operator', token: await demandOperatorToken(flags, io, broker) }
  const { member, untilDead } = await import('./holder.js')
  const { body } = await broker.call(
    { method: 'POST', path: '/v1/revocations', auth, body: () => ({ selector, reason: flags.reason }) },
    new AbortController().signal,
  )
  const revocation = member<RevocationView>(body, 'revocation')
  print.say(`refused since ${clockTime(revocation.refused_since, true)}Z, ${revocation.id}`)

  const waitMs = flags.wait * 1000
  const waiting = within(waitMs + 30_000)
  const ending = await untilDead(() => hit(broker, auth, selector, revocation, waiting), waitMs, waiting)
  const counted = await counts(broker, auth, revocation.id, waiting)
  const partly = ending.unconfirmed.length > 0 || ending.exposed.length > 0 || counted.revoking > ending.exposed.length || counted.stuck > 0
  print.data(
    {
      revocation,
      confirmed_dead: counted.revoked,
      revoking: counted.revoking,
      stuck: counted.stuck,
      not_confirmed: ending.unconfirmed,
      exposed: ending.exposed,
    },
    () => told(revocation, ending, counted),
    [revocation.id],
  )
  return partly ? EXIT.partly : EXIT.done
}

export function selectorOf(flags: { readonly credential?: string; readonly task?: string; readonly identity?: string }): Selector {
  const { credential, task, identity } = flags
  const given = [credential, task, identity].filter(value => value !== undefined)
  if (given.length !== 1) throw usage('name exactly one of --credential, --task and --identity')
  if (credential !== undefined) return { credential }
  if (task !== undefined) return { task }
  return { identity: identity as string }
}

/** What the act is about and was issued before it: rows behind a scope's cut-off are closed in batches, so none is forgotten while it is still `active`. */
async function hit(broker: Broker, auth: Auth, selector: Selector, revocation: RevocationView, signal: AbortSignal): Promise<CredentialView[]> {
  const { listCredentials, member } = await import('./holder.js')
  if ('credential' in selector) {
    const { body } = await broker.call({ method: 'GET', path: `/v1/credentials/${selector.credential}`, auth }, signal)
    return [member<CredentialView>(body, 'credential')]
  }
  const found = await listCredentials(broker, auth, selector, MOST, signal)
  return found.filter(c => c.ended_by === revocation.id || (c.state !== 'revoked' && c.issued_at <= revocation.refused_since))
}

interface Counts {
  readonly revoking: number
  readonly stuck: number
  readonly revoked: number
}

/** By the broker's own count, which includes the tasks below. */
async function counts(broker: Broker, auth: Auth, id: string, signal: AbortSignal): Promise<Counts> {
  const { member } = await import('./holder.js')
  const { body } = await broker.call({ method: 'GET', path: `/v1/revocations/${id}`, auth }, signal)
  return member<Counts>(body, 'credentials')
}

function told(revocation: RevocationView, ending: Ending, { revoking, stuck, revoked }: Counts): string {
  const all = revoking + stuck + revoked
  const parts = [all === 0 ? 'it held nothing alive' : `confirmed dead ${revoked}/${all}`]
  if (revocation.tasks > 0) parts.push(`${revocation.tasks} ${revocation.tasks === 1 ? 'task' : 'tasks'} ended`)
  for (const c of ending.exposed) parts.push(`${c.id} exposed until ${clockTime(c.exposed_until ?? c.expires_at)}Z`)
  for (const c of ending.unconfirmed) parts.push(`${c.id} ${c.state}${c.failure ? `: ${plain(c.failure)}` : ''}`)
  const unseen = revoking + stuck - ending.exposed.length - ending.unconfirmed.length
  if (unseen > 0) parts.push(`${unseen} below not yet`)
  return parts.join(', ')
}
