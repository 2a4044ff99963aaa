/** Owns the proof that the process survives V8's deoptimisation inside a call into wasm, and that without our flag it does not. */
import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'

/** Makes the call hot, then deoptimises its optimised callers while it runs: from a getter that Cedar reads its request through. */
const REPRODUCER = `
const cedar = require('@cedar-policy/cedar-wasm/nodejs');
cedar.preparsePolicySet('p', { staticPolicies: { a: 'permit(principal,action,resource) when { context.t == "x" };' } });
let strike = false;
const context = { get t() { if (strike) { %DeoptimizeFunction(cedar.statefulIsAuthorized); %DeoptimizeFunction(call); %DeoptimizeFunction(ask); } return 'x'; } };
const call = request => cedar.statefulIsAuthorized(request);
const ask = () => call({ principal: { type: 'Workload', id: 'w' }, action: { type: 'Action', id: 'issue' }, resource: { type: 'Capability', id: 'c' }, context, preparsedPolicySetId: 'p', entities: [] });
for (const f of [cedar.statefulIsAuthorized, call, ask]) %PrepareFunctionForOptimization(f);
for (let i = 0; i < 5; i++) ask();
%OptimizeFunctionOnNextCall(cedar.statefulIsAuthorized);
%OptimizeFunctionOnNextCall(call);
%OptimizeFunctionOnNextCall(ask);
for (let i = 0; i < 5; i++) ask();
strike = true;
let allowed = 0;
for (let i = 0; i < 50; i++) if (ask().response.decision === 'allow') allowed++;
console.log('answered', allowed);
`

const run = (...flags: string[]) => spawnSync(process.execPath, ['--allow-natives-syntax', ...flags, '-e', REPRODUCER], { encoding: 'utf8', timeout: 60_000 })
const major = Number(process.versions.node.split('.')[0])

test('with the inlining of wasm calls off, a caller deoptimised inside the call gets its answer, fifty times', () => {
  const { status, stdout } = run('--no-turbo-inline-js-wasm-calls')
  expect({ status, stdout: stdout.trim() }).toEqual({ status: 0, stdout: 'answered 50' })
}, 90_000)

test.runIf(major < 24)(
  'twin: with V8 as it comes, Node 20 and 22 abort the whole process (not seen on 24)',
  () => {
    const { status, signal, stdout } = run('--turbo-inline-js-wasm-calls')
    expect(stdout).not.toContain('answered')
    expect(signal !== null || (status ?? 0) > 1, `status ${status}, signal ${signal}`).toBe(true)
  },
  90_000,
)

test('importing our door to Cedar switches it off in this process', async () => {
  const { default: v8 } = await import('node:v8')
  await import('../../../src/policy/wasm.js')
  v8.setFlagsFromString('--allow-natives-syntax')
  const { createRequire } = await import('node:module')
  const lines: unknown[] = []
  const body = REPRODUCER.replaceAll('console.log', 'print')
  new Function('require', 'print', body)(createRequire(import.meta.url), (...line: unknown[]) => lines.push(line))
  expect(lines).toEqual([['answered', 50]])
}, 90_000)
