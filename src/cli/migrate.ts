/** Owns `curfew migrate`: the store's schema, forward only. */
import { Command } from 'commander'
import { connectLocal, type LocalFlags, loadConfig, migrationsDir, withConfig } from './local.js'
import { type OutputFlags, withOutput } from './options.js'
import { type Io, printer } from './output.js'

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const migrate = new Command('migrate')
    .summary("bring the store's schema up to this release")
    .description('Applies the migrations that are missing, each once, under a lock. Old and new releases run side by side meanwhile.')
  withOutput(withConfig(migrate))
  migrate.addHelpText('after', '\nExample:\n  $ curfew migrate --config /etc/curfew/curfew.yaml')
  return migrate.action(async (flags: LocalFlags & OutputFlags) => {
    await act(flags, io)
    done(0)
  })
}

async function act(flags: LocalFlags & OutputFlags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const { config } = await loadConfig(flags, io)
  const { migrate, readMigrations } = await import('../store/migrate.js')
  const migrations = await readMigrations(await migrationsDir())
  const connections = await connectLocal(config, print)
  try {
    const applied = await migrate(connections.main, migrations)
    print.data({ applied }, () => applied.join('\n'), applied)
    print.say(applied.length === 0 ? `nothing to do: all ${migrations.length} were applied before` : `${applied.length} applied`)
  } finally {
    await connections.close()
  }
}
