/** Owns `curfew migrate`: the store's schema, forward only; and what a store needs that was restored from a backup. */
import { Command } from 'commander'
import type { Config } from '../config-schema.js'
import { connectLocal, type LocalFlags, loadConfig, localContext, migrationsDir, openLocal, reasonFor, withConfig } from './local.js'
import { type OutputFlags, withOutput } from './options.js'
import { type Io, type Printer, printer } from './output.js'

interface Flags extends LocalFlags, OutputFlags {
  readonly restored?: boolean
  readonly reason?: string
}

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const migrate = new Command('migrate')
    .summary("bring the store's schema up to this release")
    .description(
      'Applies the migrations that are missing, each once, under a lock. Old and new releases run side by side meanwhile. With --restored, for a store that was restored from a backup, before any process serves it: what the backup does not know was ended, so everything is revoked, by a number that no guard has heard.',
    )
    .option('--restored', 'the store comes from a backup: revoke everything that it holds')
    .option('--reason <text>', 'why, with --restored: an incident number, a sentence')
  withOutput(withConfig(migrate))
  migrate.addHelpText('after', '\nExample:\n  $ curfew migrate --config /etc/curfew/curfew.yaml')
  return migrate.action(async (flags: Flags) => {
    await act(flags, io)
    done(0)
  })
}

async function act(flags: Flags, io: Io): Promise<void> {
  const reason = reasonFor(flags.restored, flags.reason, '--reason belongs to --restored: a migration ends nothing')
  const print = printer(io, flags)
  const { config } = await loadConfig(flags, io)
  const applied = await migrated(config, print)
  const ended = reason === null ? {} : await revokeAll(config, reason, print)
  print.data({ applied, ...ended }, () => [...applied, ...Object.values(ended)].join('\n'), applied)
}

async function migrated(config: Config, print: Printer): Promise<readonly string[]> {
  const { migrate, readMigrations } = await import('../store/migrate.js')
  const migrations = await readMigrations(await migrationsDir())
  const connections = await connectLocal(config, print)
  try {
    const applied = await migrate(connections.main, migrations)
    print.say(applied.length === 0 ? `nothing to do: all ${migrations.length} were applied before` : `${applied.length} applied`)
    return applied
  } finally {
    await connections.close()
  }
}

/** Credentials that the backup holds may have been revoked since, and evidence that it holds for unused may have been used. */
async function revokeAll(config: Config, message: string, print: Printer): Promise<Readonly<Record<string, string>>> {
  const local = await openLocal(config, print)
  try {
    const { id, receipt, seq } = await local.store.revocations.commit({ kind: 'all', key: '*' }, 'requested', { ...localContext(), message, restored: true })
    print.say(`everything that this store holds is revoked (seq ${seq}); workers and sweepers end it at its targets once they run`)
    print.say('operators, guards and signing keys are as they were at the time of the backup: look at each before you serve (docs/operators.md)')
    return { revocation: id, receipt }
  } finally {
    await local.close()
  }
}
