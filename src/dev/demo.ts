/** Owns `npm run demo`: the head, the numbered lines, and an exit code that is 0 only when every line held. */
import { storyOf } from './story.js'
import { buildWorld, type World } from './world.js'

export async function demo(options: { json: boolean }, signal: AbortSignal): Promise<number> {
  const began = performance.now()
  const results: { title: string; ok: boolean; seen: string }[] = []
  const line = (text: string) => {
    if (!options.json) process.stdout.write(`${text}\n`)
  }
  let world: World | null = null
  try {
    world = await buildWorld((name, text) => line(`${name.padEnd(8)} ${text}`), signal)
    line('')
    const steps = await storyOf(world)
    for (const [i, step] of steps.entries()) {
      signal.throwIfAborted()
      const result = await step.act().then(
        seen => ({ title: step.title, ok: true, seen }),
        error => ({ title: step.title, ok: false, seen: error instanceof Error ? error.message : 'failed' }),
      )
      results.push(result)
      line(`${String(i + 1).padStart(2)} ${step.title.padEnd(42)} ${result.seen.padEnd(58)} ${result.ok ? 'ok' : 'FAILED'}`)
    }
  } catch (error) {
    results.push({ title: 'the demo', ok: false, seen: signal.aborted ? 'interrupted' : error instanceof Error ? error.message : 'failed' })
    process.stderr.write(`${results.at(-1)?.seen}\n`)
  } finally {
    await world?.close()
  }
  const held = results.filter(r => r.ok).length
  const seconds = ((performance.now() - began) / 1000).toFixed(1)
  if (options.json) process.stdout.write(`${JSON.stringify({ held, of: results.length, seconds: Number(seconds), steps: results })}\n`)
  line(`${held} of ${results.length} in ${seconds} s. Everything started here is stopped.${held === results.length ? ' Next: npm run dev' : ''}`)
  return held === results.length && held > 0 ? 0 : 1
}
