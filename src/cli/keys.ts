/** Owns `curfew keys`: which keys sign, the next ones, and the end of one. */
import { Command, Option } from 'commander'
import type { KeyClass } from '../domain/signing-key.js'
import type { LoadedSigner } from '../signers/key-ring.js'
import type { KeyView } from '../signers/keys.js'
import { usage } from './exit.js'
import { type LocalFlags, type LocalStore, loadConfig, localContext, openLocal, reasonFor, withConfig } from './local.js'
import { type OutputFlags, withOutput } from './options.js'
import { card, duration, type Io, type Printer, printer, table } from './output.js'

type Flags = LocalFlags & OutputFlags
interface RotateFlags extends Flags {
  readonly class?: KeyClass
  readonly now?: boolean
}
interface RetireFlags extends Flags {
  readonly now?: boolean
  readonly reason?: string
}

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const keys = new Command('keys')
    .summary('list, rotate or retire signing keys')
    .description('Works on the store itself: whoever may read the configuration may do this.')
  const listing = keys.command('list').summary('all keys').description('Lists signing keys: current, next, and retired ones whose last token may live.')
  withOutput(withConfig(listing))
  listing.addHelpText('after', '\nExample:\n  $ curfew keys list')
  listing.action(async (flags: Flags) => {
    await list(flags, io)
    done(0)
  })
  const rotating = keys
    .command('rotate')
    .summary('make the next keys')
    .description('Makes the next key of every kind and publishes it; it signs once every verifier can know it. What is under way is not started twice.')
    .addOption(new Option('--class <class>', 'only keys for these tokens').choices(['access', 'task', 'receipt']))
    .option('--now', 'sign at once: for a stolen key; verifiers that cache our keys refuse for some minutes')
  withOutput(withConfig(rotating))
  rotating.addHelpText('after', '\nExample:\n  $ curfew keys rotate')
  rotating.action(async (flags: RotateFlags) => {
    await rotate(flags, io)
    done(0)
  })
  const retiring = keys
    .command('retire')
    .summary('let its successor sign; of a stolen key: end it and all it signed')
    .description(
      'Sees that a key signs no more. Its tokens stay good until they end: it stays published so long. With --now, for a key that others may hold: its successor signs at once, it leaves the key set, and all that it signed is revoked.',
    )
    .argument('<kid>', 'its name, as `curfew keys list` shows it')
    .option('--now', 'it was stolen: end it and all that it signed')
    .option('--reason <text>', 'why, with --now: an incident number, a sentence')
  withOutput(withConfig(retiring))
  retiring.addHelpText('after', '\nExample:\n  $ curfew keys retire NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs --now --reason INC-204')
  retiring.action(async (kid: string, flags: RetireFlags) => {
    await retire(kid, flags, io)
    done(0)
  })
  return keys
}

async function list(flags: Flags, io: Io): Promise<void> {
  const print = printer(io, flags)
  const { config } = await loadConfig(flags, io)
  const local = await openLocal(config, print)
  try {
    const { listKeys } = await import('../signers/keys.js')
    const rows = await local.store.keys.list()
    shown(listKeys({ list: () => rows }), local.store.clock.now(), print)
  } finally {
    await local.close()
  }
}

/** The keys themselves, opened: whoever changes which one signs must be able to make one. */
async function withSigner(flags: Flags, io: Io, act: (signer: LoadedSigner, local: LocalStore, print: Printer) => Promise<void>): Promise<void> {
  const print = printer(io, flags)
  const { config } = await loadConfig(flags, io)
  const local = await openLocal(config, print)
  try {
    const [{ retention }, { openRing }] = await Promise.all([import('../signers/configured.js'), import('../signers/key-ring.js')])
    const signer = await openRing({
      keys: local.store.keys,
      clock: local.store.clock,
      wrapper: local.wrapper,
      publishAheadSeconds: config.signer.publishAheadSeconds,
      retainSeconds: retention(config),
      refreshMs: 0,
    })
    await act(signer, local, print)
  } finally {
    await local.close()
  }
}

const rotate = (flags: RotateFlags, io: Io): Promise<void> =>
  withSigner(flags, io, async (signer, local, print) => {
    const { rotateKeys } = await import('../signers/keys.js')
    const made = await rotateKeys(signer, localContext(), {
      ...(flags.class === undefined ? {} : { keyClass: flags.class }),
      ...(flags.now ? { now: true } : {}),
    })
    const now = local.store.clock.now()
    shown(made, now, print)
    const waits = Math.max(0, ...made.map(k => (k.activatesAt.getTime() - now.getTime()) / 1000))
    print.say(waits > 0 ? `published; they sign in ${duration(waits)}, as soon as a serving process sees that it is time` : 'they sign from now on')
  })

/** Everything that can be wrong is said before a key is touched. */
async function retire(kid: string, flags: RetireFlags, io: Io): Promise<void> {
  if (!/^[A-Za-z0-9_-]{43}$/.test(kid)) throw usage('a key is named by its kid, 43 characters', 'curfew keys list')
  const reason = reasonFor(flags.now, flags.reason, '--reason belongs to --now: a key that is merely retired ends nothing')
  return withSigner(flags, io, async (signer, { store }, print) => {
    const { retireKey, withdrawKey } = await import('../signers/keys.js')
    if (reason === null) {
      const key = await retireKey(signer, kid)
      shown([key], store.clock.now(), print)
      const ends = key.retiresAt as Date
      const isGone = ends <= store.clock.now()
      return print.say(`it signs no more, and is ${isGone ? 'not published any more' : `published until ${ends.toISOString()}: then its last token has ended`}`)
    }
    const { key, revocation } = await withdrawKey(signer, store.revocations, kid, { actor: localContext().actor, message: reason })
    const told = { revocation: revocation.id, receipt: revocation.receipt, credentials: revocation.credentials }
    print.data({ key: written(key), ...told }, () => [keyTable([key], store.clock.now()), card(told)].join('\n'), [key.kid])
    print.say('withdrawn: guards hear of it within 1 s, serving processes within 5 s; verifiers that ask nobody believe it until they read our key set again')
    print.say(`when all that it signed is closed: curfew receipt show ${revocation.receipt}`)
  })
}

const written = (k: KeyView) => ({
  kid: k.kid,
  class: k.keyClass,
  alg: k.alg,
  state: k.state,
  created_at: k.createdAt.toISOString(),
  activates_at: k.activatesAt.toISOString(),
  retires_at: k.retiresAt?.toISOString() ?? null,
})

function keyTable(keys: readonly KeyView[], now: Date): string {
  const age = (k: KeyView) => Math.max(0, (now.getTime() - k.createdAt.getTime()) / 1000)
  return table(
    ['kid', 'class', 'alg', 'state', 'age', 'signs from', 'published until'],
    keys.map(k => [k.kid, k.keyClass, k.alg, k.state, duration(age(k)), k.activatesAt.toISOString(), k.retiresAt?.toISOString()]),
  )
}

function shown(keys: readonly KeyView[], now: Date, print: Printer): void {
  print.data(
    keys.map(written),
    () => (keys.length === 0 ? '' : keyTable(keys, now)),
    keys.map(k => k.kid),
  )
  if (keys.length === 0) print.say('none yet: the first serving process makes them')
}
