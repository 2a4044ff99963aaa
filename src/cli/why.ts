/** Owns `curfew why`: what policy would answer, without anything being issued or used up. */
import { Command } from 'commander'
import type { EvidenceFlags } from './evidence/find.js'
import { EXIT } from './exit.js'
import { capabilityName, connect, evidence, label, type OutputFlags, type ServerFlags, seconds, withEvidence, withOutput, withServer } from './options.js'
import { card, type Io, plain, printer } from './output.js'

interface Flags extends ServerFlags, EvidenceFlags, OutputFlags {
  readonly ttl?: number
  readonly purpose?: string
  readonly label?: Record<string, string>
}

interface Decision {
  readonly id: string
  readonly allowed: boolean
  readonly reason: string
  readonly identity: string
  readonly policies: readonly string[]
  readonly obligations: { readonly max_ttl_seconds: number | null; readonly require_proof: boolean }
  readonly nearest_rule: { readonly id: string; readonly held: number; readonly of: number } | null
  readonly failed: readonly { readonly claim: string; readonly actual: string | null }[]
  readonly forbidden_by: readonly string[]
}

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const why = new Command('why')
    .summary('explain what policy would answer, without asking for it')
    .description('Explains what policy would answer. Nothing is issued, and the evidence is not used up. Exit 4 when denied.')
    .argument('<capability>', 'what would be asked for')
    .option('--ttl <time>', 'life that would be asked for', seconds)
    .option('--purpose <text>', 'what it would be for')
    .option('--label <key=value>', 'a label of the task; may be repeated', label)
  withOutput(withEvidence(withServer(why)))
  why.addHelpText('after', '\nExample:\n  $ curfew why db/orders-ro --id-token-file svid.jwt')
  return why.action(async (capability: string, flags: Flags) => done(await act(capabilityName(capability), flags, io)))
}

async function act(capability: string, flags: Flags, io: Io): Promise<number> {
  const print = printer(io, flags)
  const signal = new AbortController().signal
  const broker = await connect(flags, io)
  const source = await evidence(flags, io, broker)
  const [{ member }, { advised }] = await Promise.all([import('./holder.js'), import('./evidence/source.js')])
  const { body } = await advised(source, () =>
    broker.call(
      {
        method: 'POST',
        path: '/v1/decisions:explain',
        auth: { kind: 'none' },
        body: async () => ({
          subject_token: await source.fresh(await broker.issuer(signal), signal),
          subject_token_type: source.type,
          capability,
          ...(flags.ttl === undefined ? {} : { ttl_seconds: flags.ttl }),
          ...(flags.purpose === undefined ? {} : { purpose: flags.purpose }),
          ...(flags.label === undefined ? {} : { labels: flags.label }),
        }),
      },
      signal,
    ),
  )
  const decision = member<Decision>(body, 'decision')
  print.data(decision, () => explained(decision, capability), [decision.id])
  return decision.allowed ? EXIT.done : EXIT.denied
}

function explained(d: Decision, capability: string): string {
  const nearest = d.nearest_rule
  return `${d.allowed ? 'allowed' : `denied (${plain(d.reason)})`}  ${capability}\n${card({
    'you are': d.identity,
    rules: d.policies.length > 0 ? d.policies.join(', ') : null,
    'longest life': d.obligations.max_ttl_seconds === null ? null : `${d.obligations.max_ttl_seconds} s`,
    'forbidden by': d.forbidden_by.length > 0 ? d.forbidden_by.join(', ') : null,
    'nearest rule': nearest ? `${nearest.id} (${nearest.held} of ${nearest.of} conditions hold)` : null,
    differs:
      d.failed.length > 0
        ? d.failed.map(f => (f.actual === null ? `${f.claim}: your token has no such claim` : `${f.claim}: your token says "${f.actual}"`)).join('; ')
        : null,
    decision: d.id,
  })
    .split('\n')
    .map(line => `  ${line}`)
    .join('\n')}`
}
