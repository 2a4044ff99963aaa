/** Owns `curfew signal`: a registered source states a risk, signed; operators look at what came. */
import { createHmac, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Command, Option } from 'commander'
import { CliError, EXIT, usage } from './exit.js'
import { connect, demandOperatorToken, type OperatorFlags, type OutputFlags, type ServerFlags, withOperator, withOutput, withServer } from './options.js'
import { card, clockTime, type Io, printer, table } from './output.js'
import { subjectOf } from './selectors.js'
import { showThing } from './show.js'

interface SendFlags extends ServerFlags, OutputFlags {
  readonly source: string
  readonly secretFile?: string
  readonly type: string
  readonly severity: string
  readonly credential?: string
  readonly task?: string
  readonly identity?: string
  readonly id?: string
  readonly occurredAt?: string
  readonly detail?: string
}

type OperatorOnly = ServerFlags & OutputFlags & OperatorFlags

interface SignalView {
  readonly id: string
  readonly source: string
  readonly type: string
  readonly severity: string
  readonly subject: Readonly<Record<string, string>>
  readonly received_at: string
  readonly rule: string | null
  readonly act: { readonly kind: string; readonly seconds?: number } | null
  readonly revocation: string | null
  readonly handled_at: string | null
  /** Held: what its rule would end. */
  readonly held?: { readonly credentials?: number; readonly tasks?: number } | null
}

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const signal = new Command('signal')
    .summary('send a risk signal, look at those received, judge those held')
    .description('Signals can shorten a life and never lengthen one. All but `send` is for operators.')
  const sending = signal
    .command('send')
    .summary('state a risk, as a registered source')
    .description('States a risk about a subject, signed with the secret of the source (CURFEW_SIGNAL_SECRET, CURFEW_SIGNAL_SECRET_FILE).')
    .requiredOption('--source <name>', 'the source, as it is registered')
    .option('--secret-file <file>', 'its secret')
    .requiredOption('--type <type>', 'what happened, like account.compromised')
    .addOption(new Option('--severity <level>', 'how bad it is').choices(['low', 'medium', 'high', 'critical']).makeOptionMandatory())
    .option('--credential <id>', 'the subject: a credential')
    .option('--task <id>', 'the subject: a task')
    .option('--identity <uri>', 'the subject: a workload identity')
    .option('--id <id>', "the event's own id; the same one twice is one signal (default: a new one)")
    .option('--occurred-at <time>', 'when it happened, RFC 3339 (default: now)')
    .option('--detail <text>', 'a sentence for people')
  withOutput(withServer(sending))
  sending.addHelpText('after', '\nExample:\n  $ curfew signal send --source edr --secret-file edr.key --type device.lost --severity high --task tsk_...')
  sending.action(async (flags: SendFlags) => {
    await send(flags, io)
    done(0)
  })
  const listing = signal.command('list').summary('signals received, newest first').description('Lists the signals received.')
  listing.option('--held', 'only those that wait for a person')
  withOutput(withOperator(withServer(listing)))
  listing.addHelpText('after', '\nExample:\n  $ curfew signal list --held')
  listing.action(async (flags: OperatorOnly & { readonly held?: boolean }) => {
    await list(flags, io)
    done(0)
  })
  const showing = signal.command('show').summary('one signal').description('Shows one signal.').argument('<id>', 'its id (sig_)')
  withOutput(withOperator(withServer(showing)))
  showing.addHelpText('after', '\nExample:\n  $ curfew signal show sig_01kaf3q7v0m2x4t6w8y0a1b2c3')
  showing.action(async (id: string, flags: OperatorOnly) => {
    if (!id.toLowerCase().startsWith('sig_')) throw usage('this is no id of a signal')
    await showThing(id, flags, io)
    done(0)
  })
  for (const [verb, summary, what] of VERDICTS) {
    const judging = signal.command(verb).summary(summary).description(what).argument('<id>', 'its id (sig_)').requiredOption('--reason <text>', 'why')
    withOutput(withOperator(withServer(judging)))
    judging.addHelpText('after', `\nExample:\n  $ curfew signal ${verb} sig_01kaf3q7v0m2x4t6w8y0a1b2c3 --reason INC-204`)
    judging.action(async (id: string, flags: OperatorOnly & { readonly reason: string }) => {
      await judge(verb, id, flags, io)
      done(0)
    })
  }
  return signal
}

const VERDICTS = [
  ['approve', 'let a held signal do what its rule says', 'Lets the rule of a held signal act: it would end more than its cap, and so waited for a person.'],
  ['dismiss', 'let a held signal do nothing', 'Closes a held signal: nothing is ended.'],
] as const

async function judge(verb: 'approve' | 'dismiss', text: string, flags: OperatorOnly & { readonly reason: string }, io: Io): Promise<void> {
  const print = printer(io, flags)
  const id = text.toLowerCase()
  if (!/^sig_[0-9a-z]{26}$/.test(id)) throw usage('this is no id of a signal')
  const broker = await connect(flags, io)
  const token = await demandOperatorToken(flags, io, broker)
  const { member } = await import('./holder.js')
  const { body } = await broker.call(
    { method: 'POST', path: `/v1/signals/${id}/${verb}`, auth: { kind: 'operator', token }, body: () => ({ reason: flags.reason }) },
    new AbortController().signal,
  )
  const signal = member<SignalView>(body, 'signal')
  print.data(signal, () => card({ id: signal.id, rule: signal.rule, act: signal.act?.kind, revocation: signal.revocation }), [signal.id])
  print.say(verb === 'dismiss' ? 'dismissed: nothing is ended' : signal.revocation ? `approved: curfew receipt show ${signal.revocation}` : 'approved')
}

async function send(flags: SendFlags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const subject = subjectOf(flags)
  const secret = secretOf(flags, io)
  const broker = await connect(flags, io)
  const { member } = await import('./holder.js')
  // The same event under the same id in every attempt: a retry is one signal.
  const text = JSON.stringify({
    id: flags.id ?? randomUUID(),
    type: flags.type,
    severity: flags.severity,
    subject,
    occurred_at: flags.occurredAt ?? new Date().toISOString(),
    ...(flags.detail === undefined ? {} : { detail: flags.detail }),
  })
  const { body } = await broker.call(
    {
      method: 'POST',
      path: '/v1/signals',
      auth: { kind: 'none' },
      body: () => text,
      headers: raw => {
        const at = Math.floor(Date.now() / 1000)
        return { 'Curfew-Source': flags.source, 'Curfew-Signature': `t=${at},v1=${createHmac('sha256', secret).update(`${at}.${raw}`).digest('hex')}` }
      },
    },
    new AbortController().signal,
  )
  const signal = member<SignalView>(body, 'signal')
  print.data(
    signal,
    () => card({ id: signal.id, rule: signal.rule ?? 'none matched: recorded, nothing done', act: signal.act?.kind, revocation: signal.revocation }),
    [signal.id],
  )
}

function secretOf(flags: SendFlags, io: Io): string {
  const file = flags.secretFile ?? (io.env.CURFEW_SIGNAL_SECRET ? undefined : io.env.CURFEW_SIGNAL_SECRET_FILE)
  if (file) {
    try {
      return readFileSync(file, 'utf8').replace(/\r?\n$/, '')
    } catch (cause) {
      throw new CliError(EXIT.usage, { code: 'usage', detail: `the secret file cannot be read: ${file}` }, { cause })
    }
  }
  if (io.env.CURFEW_SIGNAL_SECRET) return io.env.CURFEW_SIGNAL_SECRET
  throw usage('a source signs with its secret', '--secret-file FILE or CURFEW_SIGNAL_SECRET')
}

async function list(flags: OperatorOnly & { readonly held?: boolean }, io: Io): Promise<void> {
  const print = printer(io, flags)
  const broker = await connect(flags, io)
  const token = await demandOperatorToken(flags, io, broker)
  const { body } = await broker.call(
    { method: 'GET', path: '/v1/signals', query: { held: flags.held ? 'true' : undefined, limit: '50' }, auth: { kind: 'operator', token } },
    new AbortController().signal,
  )
  const found = Array.isArray(body.signals) ? (body.signals as SignalView[]) : []
  print.data(
    found,
    () =>
      found.length === 0
        ? ''
        : table(
            ['id', 'source', 'type', 'severity', 'subject', 'received', 'rule', flags.held ? 'would end' : 'revocation'],
            found.map(s => [
              s.id,
              s.source,
              s.type,
              s.severity,
              Object.entries(s.subject).map(([k, v]) => `${k}=${v}`)[0],
              clockTime(s.received_at),
              s.rule,
              flags.held ? `${s.held?.credentials ?? '?'} credentials, ${s.held?.tasks ?? '?'} tasks` : s.revocation,
            ]),
          ),
    found.map(s => s.id),
  )
  if (found.length === 0) print.say('none')
}
