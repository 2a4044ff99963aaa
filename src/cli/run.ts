/** Owns `curfew run`: a task around one command. It opens, hands over by environment, lets the broker hear it, and completes, however the command ends. */
import { basename } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { deliver, refuseCollisions } from './deliver.js'
import type { EvidenceFlags } from './evidence/find.js'
import { usage } from './exit.js'
import type { Held, Issued } from './holder.js'
import { capabilityName, connect, evidence, label, type OutputFlags, type ServerFlags, seconds, withEvidence, withOutput, withServer } from './options.js'
import { duration, type Io, printer } from './output.js'
import { param } from './params.js'
import type { OnReplace } from './replace.js'
import type { OnRevoke } from './supervise.js'

interface Flags extends ServerFlags, EvidenceFlags, OutputFlags {
  readonly ttl?: number
  readonly taskLife?: number
  readonly purpose?: string
  readonly label?: Record<string, string>
  readonly onRevoke: OnRevoke
  readonly onReplace?: OnReplace
  readonly grace: number
  readonly heartbeat: number
  readonly param?: Record<string, string>
  readonly withProofKey?: boolean
  readonly keepEvidence?: boolean
}

/** @param words what stood behind `--`. */
export function command(io: Io, words: readonly string[], done: (exit: number) => void): Command {
  const run = new Command('run')
    .summary('run a command with credentials that end when it ends')
    .description('Opens a task, runs the command with credentials in its environment, completes the task with it.')
    .usage('<capability...> [options] -- command [argument...]')
    .argument('<capability...>', 'what the command needs, like db/orders-ro')
    .option('--ttl <time>', 'life of each credential', seconds)
    .option('--task-life <time>', 'longest life of the task', seconds)
    .option('--purpose <text>', 'what it is for (default: the name of the command)')
    .option('--label <key=value>', 'a label of the task; may be repeated', label)
    .addOption(new Option('--on-revoke <act>', 'if its task is ended').choices(['kill', 'signal', 'warn']).default('kill'))
    .option('--on-replace <act>', 'before a credential ends: none (default), restart, signal:HUP (USR1, USR2)', replaceAct)
    .option('--grace <time>', 'from SIGTERM to SIGKILL', seconds, 10)
    .option('--heartbeat <time>', 'how often the broker hears of us', seconds, 15)
    .option('--param <name=value>', 'what a capability needs of you (@file reads it); may be repeated', param)
    .option('--with-proof-key', 'also hand over the key that tokens are bound to: CURFEW_PROOF_KEY')
    .option('--keep-evidence', 'leave to the command what evidence came by, for OIDC of its own')
  withOutput(withEvidence(withServer(run)))
  run.addHelpText(
    'after',
    "\nSets PGHOST, PGUSER, ..., CURFEW_TOKEN or CURFEW_<FIELD>_FILE, and CURFEW_TASK, CURFEW_CREDENTIAL.\nSeveral are granted all or none; each variable is also set as PGUSER_DB_ORDERS_RO, and the plain\nones are those of the first credential that has them. With signal: also as the file CURFEW_ENV_FILE.\nExit: the command's, or 125 to 127.\n\nExample:\n  $ curfew run db/orders-ro --ttl 15m -- psql -Atc 'select count(*) from orders'",
  )
  return run.action(async (capabilities: string[], flags: Flags) => done(await act(capabilities, flags, words, io)))
}

function replaceAct(text: string): OnReplace {
  if (text === 'none' || text === 'restart') return text
  const name = /^signal:(?:SIG)?(HUP|USR1|USR2)$/.exec(text)?.[1] as 'HUP' | 'USR1' | 'USR2' | undefined
  if (name === undefined) throw new InvalidArgumentError('It is none, restart, signal:SIGHUP, signal:SIGUSR1 or signal:SIGUSR2.')
  return `SIG${name}`
}

async function act(capabilities: readonly string[], flags: Flags, words: readonly string[], io: Io): Promise<number> {
  const print = printer(io, flags)
  const { onReplace = 'none' } = flags
  for (const capability of capabilities) capabilityName(capability)
  refuseCollisions(capabilities)
  const [file, ...args] = words
  if (file === undefined) throw usage('run what?', 'curfew run db/orders-ro -- psql')

  const broker = await connect(flags, io)
  const source = await evidence(flags, io, broker)
  const { supervise } = await import('./supervise.js')
  return supervise({
    broker,
    print,
    onRevoke: flags.onRevoke,
    onReplace,
    graceMs: flags.grace * 1000,
    heartbeatSeconds: flags.heartbeat,
    async open(signal) {
      const { stateIn } = await import('./state.js')
      const { openTask } = await import('./holder.js')
      const key = await stateIn(io.env).jobKey(source.job)
      return openTask(
        broker,
        {
          source,
          key,
          purpose: flags.purpose ?? `curfew run ${basename(file)}`.slice(0, 200),
          capabilities,
          lifeSeconds: flags.taskLife,
          labels: flags.label,
          heartbeatSeconds: flags.heartbeat,
        },
        signal,
      )
    },
    async issue(held, signal, isAgain) {
      const [{ askBundle, askCredential }, { additionsFor }, { advised }] = await Promise.all([
        import('./holder.js'),
        import('./params.js'),
        import('./evidence/source.js'),
      ])
      const added = await additionsFor(broker, held, capabilities, flags.param ?? {}, signal)
      const paramsOf = (capability: string) => added.get(capability)?.params ?? {}
      const [only, ...others] = capabilities as [string, ...string[]]
      const stale = isAgain ? source : undefined
      const answered: readonly Issued[] = await advised(source, async () =>
        others.length > 0
          ? askBundle(broker, held, capabilities, flags.ttl, signal, paramsOf, stale)
          : [await askCredential(broker, held, only, flags.ttl, signal, paramsOf, stale)],
      )
      const issued = answered.map(i => ({ ...i, secret: { ...i.secret, ...added.get(i.credential.capability)?.kept } }))
      for (const { credential: c, tokenType } of issued) {
        tell(print, c, held)
        if (tokenType === 'DPoP' && !flags.withProofKey && !isAgain)
          print.say(`  its token is bound to a key that stays here: the command cannot use it by itself (--with-proof-key hands the key over)`)
      }
      return issued
    },
    command: (held, issued) => ({
      file,
      args,
      ...deliver(io.env, held, issued, {
        evidence: { variables: source.variables ?? [], keep: flags.keepEvidence === true },
        proofKey: flags.withProofKey === true,
        envFile: onReplace.startsWith('SIG'),
      }),
    }),
  })
}

/** `crd_7qk2, db/orders-ro, 15m, task tsk_88, revocation: backend` (ux.md 3.4). The child owns stdout, so this is on stderr in every format. */
function tell(print: ReturnType<typeof printer>, c: Issued['credential'], held: Held): void {
  const life = (Date.parse(c.expires_at) - Date.parse(c.issued_at)) / 1000
  if (print.format === 'json') {
    print.say(
      JSON.stringify({ event: 'issued', credential: c.id, capability: c.capability, task: held.task.id, expires_at: c.expires_at, revocation: c.revocation }),
    )
  } else print.say(`${c.id}, ${c.capability}, ${duration(life)}, task ${held.task.id}, revocation: ${c.revocation}`)
}
