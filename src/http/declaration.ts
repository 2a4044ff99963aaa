/** Owns what a route says of itself beside what it does: from this the description at `/openapi.json` is made, and every answer in the tests is held against it. */
import type { Express } from 'express'
import type { z } from 'zod'
import type { ErrorCode } from '../domain/errors.js'
import type { Right } from '../domain/operator.js'

export type HookScheme = 'hookGithub' | 'hookGitlab' | 'hookGitlabToken' | 'hookBuildkite'

/** How callers show who they are; what each is made of stands in openapi-schemes.ts. */
export type Scheme = 'taskToken' | 'proof' | 'operator' | 'guard' | 'resourceServer' | 'signalSource' | HookScheme | 'tokenUnderTest'

/** One way to succeed. */
export interface Success {
  readonly what?: string
  /** Of a JSON body; without one, and without `text`, there is none. */
  readonly body?: z.ZodType
  /** Media types of a body that is no JSON object of ours. */
  readonly text?: readonly string[]
  /** Those that are always there. */
  readonly headers?: Readonly<Record<string, z.ZodType>>
}
export type Successes = Readonly<Record<number, Success>>

/** Those that OpenAPI 3.1 has a word for. */
export const METHODS = ['get', 'head', 'post', 'put', 'patch', 'delete', 'options', 'trace'] as const
export type Method = (typeof METHODS)[number]

export interface Declaration {
  readonly method: Method
  /** As express spells it. */
  readonly path: string
  readonly who: 'public' | { readonly holder?: true; readonly operator?: Right; readonly guard?: true }
  /** It asks for something new, so that the source and the identity of the caller are limited. What ends, looks or counts never is. */
  readonly asks?: true
  readonly oauth?: true
  /** It refuses in a sentence, as text/plain. */
  readonly plain?: true
  /** In a few words, for those who look for it. */
  readonly summary: string
  /** More than one line, where the summary would leave a caller wrong. */
  readonly description?: string
  /** Of a public route: what its answer judges itself, each alternative a set that goes together; `[]` is nothing at all. */
  readonly shows?: readonly (readonly Scheme[])[]
  readonly json?: z.ZodType
  readonly form?: z.ZodType
  /** Of a body that the answer reads itself. */
  readonly rawBody?: z.ZodType
  readonly query?: z.ZodType
  readonly params?: Readonly<Record<string, z.ZodType>>
  /** Each may come once; what is not optional must. */
  readonly headers?: Readonly<Record<string, z.ZodType>>
  readonly successes: Successes
  /** Beside those that follow from who may call, from a body, and from being a server at all. */
  readonly refuses?: readonly ErrorCode[]
}

/** As a view gives it: nobody changes an answer on its way out. */
export type Shown<T> = unknown extends T
  ? unknown
  : T extends string | number | boolean | null | undefined
    ? T
    : T extends readonly (infer E)[]
      ? readonly Shown<E>[]
      : { readonly [K in keyof T]: Shown<T[K]> }

/** Kept with the application that serves them, in the order in which they were written. */
export function declare(app: Express, declaration: Declaration): void {
  declared(app).push(declaration)
}

export function declared(app: Express): Declaration[] {
  app.locals.declarations ??= []
  return app.locals.declarations as Declaration[]
}
