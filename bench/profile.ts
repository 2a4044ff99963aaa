/** Owns the reading of a CPU profile: whose code the time was spent in, by package. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

interface Profile {
  readonly nodes: readonly { readonly id: number; readonly callFrame: { readonly functionName: string; readonly url: string } }[]
  readonly samples: readonly number[]
  /** Microseconds since the sample before. */
  readonly timeDeltas: readonly number[]
}

/** The shares of the busy time, largest first; a wasm module counts as the package that it belongs to where its name says so. */
export function topOf(dir: string, lines = 14): string[] {
  const file = readdirSync(dir).find(name => name.endsWith('.cpuprofile'))
  if (!file) return ['no profile was written']
  const profile = JSON.parse(readFileSync(join(dir, file), 'utf8')) as Profile
  const owner = new Map(profile.nodes.map(n => [n.id, ownerOf(n.callFrame.functionName, n.callFrame.url)]))
  const spent = new Map<string, number>()
  for (const [i, id] of profile.samples.entries()) {
    const whose = owner.get(id) ?? 'unknown'
    spent.set(whose, (spent.get(whose) ?? 0) + (profile.timeDeltas[i] ?? 0))
  }
  const idle = spent.get('(idle)') ?? 0
  spent.delete('(idle)')
  const busy = [...spent.values()].reduce((a, b) => a + b, 0)
  const shares = [...spent].sort((a, b) => b[1] - a[1]).slice(0, lines)
  return [
    `busy ${(busy / 1e6).toFixed(1)} s, idle ${(idle / 1e6).toFixed(1)} s, from start to end of the process`,
    ...shares.map(([whose, us]) => `${((100 * us) / busy).toFixed(1).padStart(5)} %  ${whose}`),
  ]
}

function ownerOf(name: string, url: string): string {
  if (url.startsWith('node:')) return `Node: ${url.slice(5).split('/').slice(0, 2).join('/')}`
  if (url.startsWith('wasm:')) return 'wasm (Cedar)'
  const dependency = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url)?.[1]
  if (dependency) return dependency
  if (url === '') return name.startsWith('(') ? name : `native: ${name || 'anonymous'}`
  return `ours: ${/dist\/(.*)\.js$/.exec(url)?.[1] ?? url}`
}
