/** Owns `curfew revoke`: the responder's one way in, and the honest answer to "is it dead". */
import { randomUUID } from 'node:crypto'
import { Command } from 'commander'
import { within } from '../domain/deadline.js'
import { CliError, EXIT, usage } from './exit.js'
import type { CredentialView, RevocationView } from './holder.js'
import type { Auth, Broker } from './http.js'
import { demandOperatorToken, type OperatorFlags, type OutputFlags, seconds, withOperator, withOutput, withServer } from './options.js'
import { clockTime, type Io, type Printer, plain, printer } from './output.js'
import type { PlanView } from './plan.js'
import type { ReceiptClaims } from './receipt-claims.js'
import {
  checkQuarantinable,
  connectSelecting,
  hasSelector,
  isNarrow,
  resolved,
  type SelectingFlags,
  type Selector,
  selectorOf,
  tellSelector,
  type Wanted,
  withSelectors,
} from './selectors.js'

interface Flags extends SelectingFlags, OutputFlags, OperatorFlags {
  readonly preview?: boolean
  readonly now?: boolean
  readonly quarantine?: number
  readonly reason?: string
  readonly wait: number
  readonly idempotencyKey?: string
  readonly input: boolean
  readonly verbose?: boolean
}

/** A wide act is resolved and committed in one request. */
const COMMIT_MS = 60_000
const NEWCOMERS_TOLD = 10

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const revoke = new Command('revoke')
    .summary('end what a selector names, or what a plan foresaw')
    .description(
      'Ends what is named, or what a plan (pln_) foresaw: refused when the answer comes, destroyed at its target, then probed. Narrow acts (a credential, a task) at once, wide ones by a plan. Exit 10: stuck, exposed, or not seen dead.',
    )
    .argument('[plan]')
  withSelectors(revoke, 'all')
    .option('--preview', 'make a plan: what it would hit; nothing is ended')
    .option('--now', 'without a plan')
    .option('--quarantine <time>', 'refuse new credentials of the same for so long', seconds)
    .option('--reason <text>', 'why: an incident number, a sentence')
    .option('--wait <time>', 'how long to wait for the proof of death', seconds, 10)
    .option('--idempotency-key <text>', 'the same one twice is one act (default: a new one)')
    .option('--no-input', 'ask nothing')
    .option('-v, --verbose', 'tell the progress also where nobody watches')
  withOutput(withOperator(withServer(revoke, '--public-url')))
  revoke.addHelpText('after', '\nExample:\n  $ curfew revoke --identity github:repository_id=456789 --preview --reason INC-204')
  return revoke.action(async (plan: string | undefined, flags: Flags) => done(await act(plan, flags, io)))
}

async function act(plan: string | undefined, flags: Flags, io: Io): Promise<number> {
  const print = printer(io, flags)
  const signal = new AbortController().signal
  if (plan !== undefined) return execute({ plan: planIdOf(plan, flags) }, flags, io, print, null, signal)
  const wanted = checked(flags, io)
  const broker = await connectSelecting(flags, io)
  const auth: Auth = { kind: 'operator', token: await demandOperatorToken(flags, io, broker) }
  const selector = await resolved(wanted, broker, signal)
  if (!flags.preview && (flags.now || isNarrow(wanted))) return execute({ selector }, flags, io, print, { broker, auth }, signal)

  const { makePlan, tellPlan } = await import('./plan.js')
  const made = await makePlan(broker, auth, selector, flags.reason as string, signal)
  const byHand = `curfew revoke ${made.id}`
  if (flags.preview) {
    print.data(made, () => tellPlan(made), [made.id])
    print.say(`execute it: ${byHand}`)
    return EXIT.done
  }
  if (await agreed(made, io, print)) return execute({ plan: made.id }, flags, io, print, { broker, auth }, signal)
  throw new CliError(EXIT.approval, { code: 'not_agreed', detail: 'nothing was ended', next: `${byHand}, until ${clockTime(made.valid_until)}Z` })
}

/** All that can be wrong is said before anything is asked of the broker. */
function checked(flags: Flags, io: Io): Wanted {
  const wanted = selectorOf(flags)
  if (flags.preview && flags.now) throw usage('--preview or --now, not both')
  if (flags.preview && flags.quarantine !== undefined) throw usage('--quarantine belongs to the act, not to its preview', 'curfew revoke pln_… --quarantine 2h')
  if (flags.quarantine !== undefined) checkQuarantinable(flags)
  if (flags.reason === undefined) throw usage('say why: --reason T', 'an incident number, a sentence')
  checkKey(flags)
  const canAsk = flags.input && io.input?.terminal === true && io.watched === true
  if (!isNarrow(wanted) && !flags.preview && !flags.now && !canAsk)
    throw usage('this may end many, and nobody can be asked: say --preview or --now', '--preview makes a plan, which `curfew revoke pln_…` executes')
  return wanted
}

function planIdOf(text: string, flags: Flags): string {
  const id = text.toLowerCase()
  if (!/^pln_[0-9a-z]{26}$/.test(id)) throw usage('this is no id of a plan (pln_…)', 'what else is to end has its flag: --credential, --task, --identity …')
  if (hasSelector(flags)) throw usage('a plan has its selector: no other beside it')
  if (flags.preview) throw usage('a plan is looked at with `curfew show`, and --preview makes another')
  checkKey(flags)
  return id
}

function checkKey({ idempotencyKey }: Flags): void {
  if (idempotencyKey !== undefined && !/^[\x21-\x7e]{8,128}$/.test(idempotencyKey)) throw usage('--idempotency-key has 8 to 128 printable characters')
}

/** What stands on the screen is what is agreed to: the plan's own id is executed, and a whole word is asked for. */
async function agreed(plan: PlanView, io: Io, print: Printer): Promise<boolean> {
  const { counted, tellPlan } = await import('./plan.js')
  for (const line of tellPlan(plan).split('\n')) print.warn(line)
  const { credentials, tasks } = plan.reach
  io.err(plain(`type yes to end ${counted(credentials, 'credential')} and ${counted(tasks, 'task')}: `))
  return (await io.input?.line())?.trim() === 'yes'
}

interface Way {
  readonly broker: Broker
  readonly auth: Auth
}

type Target = { readonly plan: string } | { readonly selector: Selector }

async function execute(target: Target, flags: Flags, io: Io, print: Printer, way: Way | null, signal: AbortSignal): Promise<number> {
  const broker = way?.broker ?? (await connectSelecting(flags, io))
  const auth: Auth = way?.auth ?? { kind: 'operator', token: await demandOperatorToken(flags, io, broker) }
  const { member } = await import('./holder.js')
  // One key for all attempts: a retry after a lost answer is the same act.
  const key = flags.idempotencyKey ?? randomUUID()
  const { body } = await broker.call(
    {
      method: 'POST',
      path: '/v1/revocations',
      auth,
      headers: () => ({ 'Idempotency-Key': key }),
      timeoutMs: COMMIT_MS,
      body: () => ({
        ...target,
        ...(flags.reason === undefined ? {} : { reason: flags.reason }),
        ...(flags.quarantine === undefined ? {} : { quarantine: { ttl_seconds: flags.quarantine } }),
      }),
    },
    signal,
  )
  const revocation = member<RevocationView & { readonly selector?: Selector }>(body, 'revocation')
  print.say(`refused since ${clockTime(revocation.refused_since, true)}Z, ${revocation.id}`)
  const newcomers = Array.isArray(body.newcomers) ? (body.newcomers as string[]) : []
  if (newcomers.length > 0) {
    const more = newcomers.length - NEWCOMERS_TOLD
    print.say(`newcomers, which the plan had not seen: ${newcomers.slice(0, NEWCOMERS_TOLD).join(', ')}${more > 0 ? ` and ${more} more` : ''}`)
  }
  const selector = 'selector' in target ? target.selector : (revocation.selector ?? {})
  const quarantine = typeof body.quarantine === 'string' ? body.quarantine : null
  if (quarantine !== null) tellQuarantine(quarantine, selector, print)
  return report({ revocation, selector, newcomers, quarantine }, flags, io, print, { broker, auth })
}

/** What is new has no cut-off: that is the act's. */
function tellQuarantine(id: string, { issued_before: _cut, ...named }: Selector, print: Printer): void {
  print.say(`quarantine ${id}: nothing new for ${tellSelector(named as Selector)}`)
}

interface Done {
  readonly revocation: RevocationView
  readonly selector: Selector
  readonly newcomers: readonly string[]
  readonly quarantine: string | null
}

async function report(act: Done, flags: Flags, io: Io, print: Printer, { broker, auth }: Way): Promise<number> {
  const { follow, notDead, readReceipt, tellOutcome, tellProgress } = await import('./follow.js')
  const waitMs = flags.wait * 1000
  const waiting = within(waitMs + 30_000)
  const loud = io.watched === true || flags.verbose === true
  let claims: ReceiptClaims
  try {
    const look = () => readReceipt(broker, auth, act.revocation.id, waiting)
    claims = await follow(look, waitMs, (seen, elapsed) => loud && print.say(tellProgress(seen, elapsed)), waiting)
  } catch (error) {
    if (!(error instanceof CliError)) throw error
    // It is done and cannot be undone; what is not known is said.
    print.warn(`refused, and what became of it cannot be read: ${error.problem.detail}; later: curfew receipt show ${act.revocation.id}`)
    print.data({ ...act, receipt: null, final: false }, () => '', [act.revocation.id])
    return EXIT.partly
  }
  const exposed = new Set(claims.exposed.map(e => e.credential))
  const unconfirmed: CredentialView[] = claims.final
    ? []
    : (await notDead(broker, auth, act.selector, act.revocation, waiting)).filter(c => !exposed.has(c.id) && c.revocation !== 'expiry-only')
  const { selector: _, ...rest } = act
  print.data(
    {
      ...rest,
      receipt: claims.jti,
      final: claims.final,
      confirmed_dead: claims.credentials.revoked,
      revoking: claims.credentials.revoking,
      stuck: claims.credentials.stuck,
      not_confirmed: unconfirmed,
      exposed: claims.exposed,
      exposed_until: claims.exposed_until,
      guards: { ...claims.guards, seq: claims.seq },
    },
    () => tellOutcome(claims, unconfirmed),
    [act.revocation.id],
  )
  print.say(`receipt ${claims.jti}${claims.final ? '' : ', not final yet'}: curfew receipt show ${claims.jti}`)
  return claims.final ? EXIT.done : EXIT.partly
}
