/** Owns child processes of the guard's bench: an order goes out, one answer of a kind comes back, and whoever dies is told of. */
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export interface Hand<Order, Told extends { readonly kind: string }> {
  tell(order: Order): void
  /** The next answer of that kind. */
  hear<K extends Told['kind']>(kind: K): Promise<Extract<Told, { readonly kind: K }>>
  ask<K extends Told['kind']>(order: Order, kind: K): Promise<Extract<Told, { readonly kind: K }>>
  end(): Promise<void>
}

export function handOf<Order, Told extends { readonly kind: string }>(file: string): Hand<Order, Told> {
  const child: ChildProcess = fork(fileURLToPath(new URL(file, import.meta.url)), [], {
    execArgv: ['--expose-gc'],
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  const waiting = new Map<string, { resolve: (told: Told) => void; reject: (error: Error) => void }>()
  child.on('message', told => {
    const { kind } = told as Told
    waiting.get(kind)?.resolve(told as Told)
    waiting.delete(kind)
  })
  const ended = new Promise<void>(resolve => child.once('exit', () => resolve()))
  void ended.then(() => {
    for (const { reject } of waiting.values()) reject(new Error(`${file} ended before it answered`))
  })
  const hear = (kind: string) => new Promise<Told>((resolve, reject) => waiting.set(kind, { resolve, reject }))
  const hand = {
    tell: (order: Order) => void child.send(order as object),
    hear,
    ask(order: Order, kind: string) {
      const answer = hear(kind)
      hand.tell(order)
      return answer
    },
    async end() {
      if (child.connected) child.disconnect()
      await ended
    },
  }
  return hand as Hand<Order, Told>
}
