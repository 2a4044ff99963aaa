/** Owns `curfew caps`: what this workload may ask for. What it may not is not in the list. */
import { Command } from 'commander'
import type { OfferView } from './described.js'
import type { EvidenceFlags } from './evidence/find.js'
import { CliError, EXIT } from './exit.js'
import type { Broker } from './http.js'
import { connect, evidence, label, type OutputFlags, type ServerFlags, withEvidence, withOutput, withServer } from './options.js'
import { duration, type Io, printer, table } from './output.js'

interface Flags extends ServerFlags, EvidenceFlags, OutputFlags {
  readonly task?: string
  readonly purpose?: string
  readonly label?: Record<string, string>
}

type Row = Omit<OfferView, 'evidence' | 'require_proof'> & Partial<Pick<OfferView, 'evidence' | 'require_proof'>>

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const caps = new Command('caps')
    .summary('what I may ask for: ceilings, sensitivity, how it is revoked')
    .description('Lists what policy permits to this workload as it is now, or what a task kept here was opened for. Nothing is issued or used up.')
    .option('--task <id>', 'of this task, kept here by `curfew token`')
    .option('--purpose <text>', 'what it would be for')
    .option('--label <key=value>', 'a label of the task; may be repeated', label)
  withOutput(withEvidence(withServer(caps)))
  caps.addHelpText('after', '\nExample:\n  $ curfew caps --output name')
  return caps.action(async (flags: Flags) => {
    await act(flags, io)
    done(EXIT.done)
  })
}

async function act(flags: Flags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const broker = await connect(flags, io)
  const rows = flags.task === undefined ? await ofEvidence(flags, io, broker) : await ofTask(flags.task, io, broker)
  print.data(
    rows,
    () => (rows.length === 0 ? '' : shown(rows)),
    rows.map(row => row.name),
  )
  if (rows.length === 0) print.say('nothing is permitted to this workload; curfew why CAPABILITY says what differs')
  const stale = rows.filter(row => row.evidence === 'stale')
  if (stale.length > 0) print.say(`evidence too old for ${stale.map(row => row.name).join(', ')}: attest again`)
}

async function ofEvidence(flags: Flags, io: Io, broker: Broker): Promise<readonly Row[]> {
  const source = await evidence(flags, io, broker)
  const [{ describe }, { stateIn }] = await Promise.all([import('./described.js'), import('./state.js')])
  const auth = { kind: 'proof', key: await stateIn(io.env).jobKey(source.job) } as const
  const ask = { source, auth, purpose: flags.purpose, labels: flags.label }
  return (await describe(broker, ask, new AbortController().signal)).capabilities
}

async function ofTask(task: string, io: Io, broker: Broker): Promise<readonly Row[]> {
  const { keptAuth } = await import('./kept.js')
  const auth = await keptAuth(task, io, broker)
  if (!auth) throw new CliError(EXIT.gone, { code: 'not_found', detail: 'this user keeps no such task for this broker' })
  const { body } = await broker.call({ method: 'GET', path: '/v1/capabilities', auth }, new AbortController().signal)
  if (!Array.isArray(body.capabilities)) throw new CliError(EXIT.unexpected, { code: 'unexpected_answer', detail: "the server's answer has no capabilities" })
  return body.capabilities as Row[]
}

function shown(rows: readonly Row[]): string {
  const life = (row: Row) =>
    row.ttl_seconds === row.max_ttl_seconds ? duration(row.ttl_seconds) : `${duration(row.ttl_seconds)}, at most ${duration(row.max_ttl_seconds)}`
  const said = (row: Row) => (row.evidence === undefined ? null : row.evidence === 'stale' ? 'too old' : 'suffices')
  const params = (row: Row) =>
    Object.entries(row.params)
      .map(([name, need]) => (need === 'required' ? name : `[${name}]`))
      .join(' ')
  return table(
    ['capability', 'life', 'intent', 'sensitivity', 'revocation', 'evidence', 'params', 'what'],
    rows.map(row => [row.name, life(row), row.intent, row.sensitivity, row.revocation, said(row), params(row), row.summary]),
  )
}
