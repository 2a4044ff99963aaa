/** Owns `curfew token`: one short-lived token on stdout, and nothing else there. */
import { Command } from 'commander'
import { within } from '../domain/deadline.js'
import type { EvidenceFlags } from './evidence/find.js'
import { usage } from './exit.js'
import type { Held, Issued } from './holder.js'
import { capabilityName, connect, evidence, label, type OutputFlags, type ServerFlags, seconds, withEvidence, withOutput, withServer } from './options.js'
import { duration, type Io, printer } from './output.js'

interface Flags extends ServerFlags, EvidenceFlags, OutputFlags {
  readonly ttl?: number
  readonly taskLife?: number
  readonly resource?: string
  readonly purpose?: string
  readonly label?: Record<string, string>
}

/** The task must outlive the token that was asked for, or it would cut it short. Seconds. */
const TASK_MARGIN = 60
const RAR = '/rar/task/v1'

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const token = new Command('token')
    .summary('print a short-lived token')
    .description('Opens a task, prints only the token of one capability, and keeps the task for `curfew complete`.')
    .argument('<capability>', 'what is needed, like demo/orders-bearer')
    .option('--ttl <time>', 'life of the token', seconds)
    .option('--task-life <time>', 'life of the task (default: a minute longer than --ttl)', seconds)
    .option('--resource <uri>', 'the server it is for, when it must be that one')
    .option('--purpose <text>', 'what it is for')
    .option('--label <key=value>', 'a label of the task; may be repeated', label)
  withOutput(withEvidence(withServer(token)))
  token.addHelpText('after', '\nExample:\n  $ T=$(curfew token demo/orders-bearer --ttl 20s)')
  return token.action(async (capability: string, flags: Flags) => {
    await act(capabilityName(capability), flags, io)
    done(0)
  })
}

async function act(capability: string, flags: Flags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const signal = new AbortController().signal
  const broker = await connect(flags, io)
  const source = await evidence(flags, io, broker)
  const [{ stateIn }, { advised }, holder] = await Promise.all([import('./state.js'), import('./evidence/source.js'), import('./holder.js')])
  const state = stateIn(io.env)
  const key = await state.jobKey(source.job)
  const lifeSeconds = flags.taskLife ?? (flags.ttl === undefined ? undefined : flags.ttl + TASK_MARGIN)
  const purpose = flags.purpose ?? `curfew token ${capability}`
  const keep = (held: Held) =>
    state.keep(
      {
        server: broker.url,
        task: held.task.id,
        token: held.token,
        key: key.exportPrivate(),
        capabilities: [capability],
        deadlineAt: held.task.deadline_at,
      },
      source.job,
    )

  let held: Held
  let issued: { readonly credential: string; readonly secret: Readonly<Record<string, string>>; readonly tokenType: string | null; readonly life: number }
  if (flags.resource !== undefined) {
    // One request, one transaction: the task opens only together with its token.
    const { body } = await advised(source, () =>
      broker.call(
        {
          method: 'POST',
          path: '/oauth2/token',
          auth: { kind: 'proof', key },
          form: async () => ({
            grant_type: 'urn:ietf:params:oauth:grant-type:token-exchange',
            subject_token: await source.fresh(await broker.issuer(signal), signal),
            subject_token_type: source.type,
            resource: flags.resource as string,
            authorization_details: JSON.stringify([
              {
                type: (await broker.issuer(signal)) + RAR,
                purpose,
                capabilities: [capability],
                ...(lifeSeconds === undefined ? {} : { life_seconds: lifeSeconds }),
                ...(flags.ttl === undefined ? {} : { ttl: flags.ttl }),
                ...(flags.label === undefined ? {} : { labels: flags.label }),
              },
            ]),
          }),
        },
        signal,
      ),
    )
    const task = holder.member<{ id: string; deadline_at: string }>(body, 'task')
    held = {
      task: { ...task, state: 'open', opened_at: '', heartbeat_seconds: null, ended_at: null, end_reason: null },
      token: holder.textMember(task as never, 'token'),
      key,
    }
    keep(held)
    issued = {
      credential: holder.textMember(body, 'credential'),
      secret: { token: holder.textMember(body, 'access_token') },
      tokenType: typeof body.token_type === 'string' ? body.token_type : null,
      life: typeof body.expires_in === 'number' ? body.expires_in : 0,
    }
  } else {
    held = await holder.openTask(broker, { source, key, purpose, capabilities: [capability], lifeSeconds, labels: flags.label }, signal)
    keep(held)
    try {
      issued = await advised(source, () => ask(holder, broker, held, capability, flags.ttl, signal))
    } catch (error) {
      // Nothing was handed over: the task has no work left. Its deadline ends it if this does not arrive.
      await holder.endTask(broker, held, 'cancel', null, within(5_000)).catch(() => {})
      state.forget(held.task.id)
      throw error
    }
  }
  if (issued.tokenType === 'DPoP') print.say(`${issued.credential} is bound to a key in this user's state folder: its server asks for a proof of it (RFC 9449)`)
  const token = issued.secret.token as string
  print.data({ token, token_type: issued.tokenType, credential: issued.credential, task: held.task.id, expires_in: issued.life }, () => token, [
    issued.credential,
  ])
  if (print.format === 'name') print.say(`${duration(issued.life)}; the token itself is printed with --output table or json only`)
}

async function ask(
  holder: typeof import('./holder.js'),
  broker: Awaited<ReturnType<typeof connect>>,
  held: Held,
  capability: string,
  ttl: number | undefined,
  signal: AbortSignal,
) {
  const { credential, secret, tokenType }: Issued = await holder.askCredential(broker, held, capability, ttl, signal)
  if (!secret.token) throw usage(`${capability} is no token`, `curfew run ${capability} -- command`)
  return { credential: credential.id, secret, tokenType, life: Math.round((Date.parse(credential.expires_at) - Date.parse(credential.issued_at)) / 1000) }
}
