/** Owns the one type that may hold secret material: it cannot print itself and has one way out. */
import { createHash } from 'node:crypto'
import { inspect } from 'node:util'

/** The fields handed to a holder: `{ token }`, or `{ PGUSER, PGPASSWORD, … }`. */
export type SecretFields = Readonly<Record<string, string>>

export class Secret {
  readonly #fields: SecretFields
  readonly #primary: string

  /** @param primary the field that by itself is the credential (the token, the password); its digest finds it again. */
  constructor(fields: SecretFields, primary: string) {
    if (!fields[primary]) throw new TypeError(`a secret needs its field ${primary}`)
    this.#fields = { ...fields }
    this.#primary = primary
  }

  static token(token: string): Secret {
    return new Secret({ token }, 'token')
  }

  /** The same by another name, beside what goes with it. Nothing is revealed. */
  renamed(primary: string, rest: SecretFields = {}): Secret {
    return new Secret({ ...rest, [primary]: this.#fields[this.#primary] as string }, primary)
  }

  /** The only way out. Callers are counted by test/house.test.ts. */
  reveal(): SecretFields {
    return this.#fields
  }

  /** SHA-256 of the primary field, base64url: what a responder's machine computes from a leaked token before it asks. */
  digest(): string {
    return createHash('sha256')
      .update(this.#fields[this.#primary] as string)
      .digest('base64url')
  }

  toString(): string {
    return '[secret]'
  }
  toJSON(): string {
    return '[secret]'
  }
  [inspect.custom](): string {
    return '[secret]'
  }
}
