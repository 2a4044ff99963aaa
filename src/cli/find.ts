/** Owns `curfew find`: what is this that leaked? A token is hashed here, and only its digest is ever sent. */
import { createHash } from 'node:crypto'
import { Command } from 'commander'
import { CliError, EXIT, usage } from './exit.js'
import type { CredentialView } from './holder.js'
import { connect, demandOperatorToken, type OperatorFlags, type OutputFlags, type ServerFlags, withOperator, withOutput, withServer } from './options.js'
import { clockTime, type Io, plain, printer } from './output.js'
import { showThing } from './show.js'

interface Flags extends ServerFlags, OutputFlags, OperatorFlags {
  readonly digest?: boolean
}

export function command(io: Io, _words: readonly string[], done: (exit: number) => void): Command {
  const find = new Command('find')
    .summary('what a leaked token, a role name or an id is')
    .description(
      'Finds a credential by its token on standard input; only the digest of the token is sent. An id, and a name made from one (a database role, an application name), are found as they are. Exit 6: unknown.',
    )
    .argument('<what>', '- for a token on standard input, or a name, or an id')
    .option('--digest', 'standard input holds its SHA-256, base64url (or: sha256:…)')
  withOutput(withOperator(withServer(find)))
  find.addHelpText('after', '\nExample:\n  $ pbpaste | curfew find -')
  return find.action(async (what: string, flags: Flags) => {
    await act(what, flags, io)
    done(0)
  })
}

async function act(what: string, flags: Flags, io: Io): Promise<void> {
  if (what !== '-') {
    const id = idIn(what)
    if (id !== null && !flags.digest) return showThing(id, flags, io)
    // It is not repeated here, and goes nowhere: but others on this machine may have seen it.
    throw usage('this is no id and no name made from one', 'a token is never an argument, which all of this machine can read: pbpaste | curfew find -')
  }
  const print = printer(io, flags)
  if (io.input?.terminal) print.say('paste it, then Ctrl-D')
  const text = cleaned((await io.input?.text()) ?? '')
  if (text === '') throw usage('standard input is empty')
  const id = flags.digest ? null : idIn(text)
  if (id !== null) return showThing(id, flags, io)
  const digest = digestOf(text, flags.digest === true)

  const broker = await connect(flags, io)
  const token = await demandOperatorToken(flags, io, broker)
  const { member } = await import('./holder.js')
  const { body } = await broker
    .call({ method: 'POST', path: '/v1/credentials:find', auth: { kind: 'operator', token }, body: () => ({ digest }) }, new AbortController().signal)
    .catch(error => {
      if (!(error instanceof CliError) || error.exit !== EXIT.gone || error.problem.code !== 'not_found' || !DIGEST.test(text)) throw error
      throw new CliError(EXIT.gone, { ...error.problem, next: 'if this is a digest already: curfew find - --digest' })
    })
  const found = member<CredentialView & Record<string, unknown>>(body, 'credential')
  print.data(found, () => tellFound(found), [found.id])
}

/** As it is copied from a log, a header, a chat: around it and, in a JWT, broken over lines. */
function cleaned(pasted: string): string {
  const text = pasted
    .trim()
    .replace(/^authorization:\s*/i, '')
    .replace(/^(?:bearer|dpop)\s+/i, '')
    .replace(/^(["'`])(.*)\1$/s, '$2')
    .trim()
  const joined = text.replace(/\s+/g, '')
  return /^eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*$/.test(joined) ? joined : text
}

const DIGEST = /^[A-Za-z0-9_-]{43}$/

/** Said to be a digest, or not taken for one: an opaque token may look the same, and would be sent as it is. */
function digestOf(text: string, said: boolean): string {
  const marked = /^sha-?256[:=]\s*(\S.*)$/i.exec(text)?.[1]
  if (!said && marked === undefined) {
    if (/\s/.test(text)) throw usage('standard input holds more than one token')
    return createHash('sha256').update(text).digest('base64url')
  }
  const digest = marked ?? text
  const bytes = /^[0-9a-f]{64}$/i.test(digest) ? Buffer.from(digest, 'hex') : Buffer.from(digest.replace(/=$/, ''), 'base64url')
  if (bytes.length !== 32 || !/^(?:[0-9a-fA-F]{64}|[A-Za-z0-9_-]{43}=?)$/.test(digest)) throw usage('this is no SHA-256 digest in base64url or hex')
  return bytes.toString('base64url')
}

const KINDS = 'crd|tsk|rev|rcp|dec|sig|pln|qrn'

/** An id, or the id in a name such as `curfew_crd-…`, `v-token-crd-…`: what downstream systems call ours. */
function idIn(text: string): string | null {
  if (text.length > 128 || !/^[\w/.:@-]+$/.test(text)) return null
  const match = new RegExp(`(?:^|[^0-9a-z])(${KINDS})[_-]([0-9a-hjkmnp-tv-z]{26})(?![0-9a-z])`, 'i').exec(text)
  return match ? `${match[1]}_${match[2]}`.toLowerCase() : null
}

/** The line of ux.md 3.4. */
function tellFound(c: CredentialView & Record<string, unknown>): string {
  const ended = c.revoked_at ?? (c.revoking_at as string | null)
  return [
    c.id,
    c.state,
    c.capability,
    `${c.identity} task ${c.task}`,
    `issued ${clockTime(c.issued_at)}`,
    ended ? `ended ${clockTime(ended)}${c.reason ? ` ${c.reason}` : ''}` : `ends ${clockTime(c.expires_at)}`,
    ...(c.exposed_until ? [`exposed until ${clockTime(c.exposed_until)}`] : []),
  ]
    .map(part => plain(String(part)))
    .join('  ')
}
