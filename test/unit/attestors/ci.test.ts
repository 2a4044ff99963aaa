/** What the CI providers say of a job, as their documentation prints it: who it is, what policy is told, how its run is called. */
import { sign as signBytes } from 'node:crypto'
import type { JWTPayload } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { oidcAttestor } from '../../../src/attestors/oidc.js'
import { createOutbound } from '../../../src/clients/outbound.js'
import type { OidcIssuerConfig } from '../../../src/config-schema.js'
import { CI_PROVIDERS, type CiProvider, ciClaims } from '../../../src/dev/ci-tokens.js'
import { type DevIssuer, startIssuer } from '../../../src/dev/issuer.js'
import { CurfewError } from '../../../src/domain/errors.js'
import { newKeyPair } from '../../../src/domain/key-pair.js'
import type { Attestation } from '../../../src/domain/workload.js'
import { ISSUERS } from '../../providers.js'
import { oidcIssuer } from '../../trust-issuer.js'

const SERVER = 'https://curfew.example'
const NOW = 1_790_000_000
const { publicKey, privateKey } = await newKeyPair('rsa', { modulusLength: 2_048 })
const jwks = JSON.stringify({ keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'k', alg: 'RS256', use: 'sig' }] })
const b64 = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')

function mint(claims: object, header: object = { typ: 'JWT' }): string {
  const input = `${b64({ alg: 'RS256', kid: 'k', ...header })}.${b64(claims)}`
  return `${input}.${signBytes('sha256', Buffer.from(input), privateKey).toString('base64url')}`
}

const deps = {
  serverUrl: SERVER,
  clock: { now: () => new Date(NOW * 1000) },
  outbound: { getJson: () => Promise.reject(new Error('no network here')) },
  readFile: async () => jwks,
  log: { warn: () => {}, error: () => {} },
}

async function attest(provider: CiProvider, more: JWTPayload = {}, config: Partial<OidcIssuerConfig> = {}, header?: object): Promise<Attestation | string> {
  const issuer = oidcIssuer(ISSUERS[provider], { name: provider, profile: provider, keys: { file: 'jwks' }, algs: ['RS256'], ...config })
  try {
    const token = mint({ ...ciClaims(provider, ISSUERS[provider], SERVER, NOW), ...more }, header)
    return await oidcAttestor([issuer], deps).attest({ type: 'jwt', token }, AbortSignal.timeout(5_000))
  } catch (error) {
    if (!(error instanceof CurfewError)) throw error
    return [error.facts.reason, error.facts.field, error.facts.next].filter(f => f !== undefined).join(' ')
  }
}

describe('GitLab', () => {
  const ids = { pipeline_id: '574', job_id: '302' }

  it('is known by the number of its project; its run is the job of a pipeline; its token is tied to a key', async () => {
    expect(await attest('gitlab', ids)).toMatchObject({
      identity: 'gitlab:project_id=20',
      profile: 'gitlab',
      run: 'gitlab:20:574:302',
      replay: 'bounded',
      attributes: {
        namespace_id: '72',
        project_path: 'acme/orders',
        ref: 'main',
        ref_path: 'refs/heads/main',
        ref_protected: 'true',
        runner_id: '1',
        user_login: 'dana',
      },
    })
  })

  it('an address or another account of a person is not handed to policy, and an array is no reason to refuse', async () => {
    const { attributes } = (await attest('gitlab')) as Attestation
    for (const name of ['user_email', 'user_identities', 'groups_direct']) expect(attributes).not.toHaveProperty(name)
  })

  it('P8 T36 code of a fork that runs in the project asks for nothing; twin: the job of the project itself', async () => {
    expect(await attest('gitlab', { project_id: '21', project_path: 'stranger/orders' })).toBe('fork_refused job_project_id')
    expect(await attest('gitlab', { job_project_id: '21' })).toBe('fork_refused job_project_id')
    expect(await attest('gitlab', { project_id: '21', job_project_id: '21' })).toMatchObject({ identity: 'gitlab:project_id=21' })
    // Instances of before the claim; there `project_id` is the project that the job runs in.
    expect(await attest('gitlab', { job_project_id: undefined })).toMatchObject({ identity: 'gitlab:project_id=20' })
  })

  it('P8 ref_protected is the text that it is, and a truth reads alike', async () => {
    for (const said of ['true', true]) expect(await attest('gitlab', { ref_protected: said })).toMatchObject({ attributes: { ref_protected: 'true' } })
    expect(await attest('gitlab', { ref_protected: 'false' })).toMatchObject({ attributes: { ref_protected: 'false' } })
  })

  it.each(['external_pull_request_event', 'external', 'chat', 'ondemand_dast_scan', 'security_orchestration_policy', 'Push', '__proto__'])(
    'P4 T36 a pipeline that %s started asks only where the configuration names it',
    async pipeline_source => {
      expect(await attest('gitlab', { pipeline_source })).toBe('event_refused pipeline_source')
      expect(await attest('gitlab', { pipeline_source }, { allowEvents: [pipeline_source] })).toMatchObject({ attributes: { pipeline_source } })
      expect(await attest('gitlab', { pipeline_source: 'merge_request_event' })).toMatchObject({ identity: 'gitlab:project_id=20' })
    },
  )

  it('P3 T35 the subject is never read: its components can be chosen', async () => {
    for (const sub of ['project_path:victim/orders', 'project_path:acme/orders:ref_type:branch:ref:x:user_login:root', 'project_id:99'])
      expect(await attest('gitlab', { sub })).toMatchObject({ identity: 'gitlab:project_id=20' })
  })

  it('P2 T34 a path decides nothing, a number everything, in its one spelling', async () => {
    expect(await attest('gitlab', { project_path: 'taken/over' })).toMatchObject({ identity: 'gitlab:project_id=20' })
    expect(await attest('gitlab', { project_id: 20 })).toMatchObject({ identity: 'gitlab:project_id=20' })
    for (const project_id of ['020', '20 ', '2e1', '-20', '0x14', '', 2 ** 53]) expect(await attest('gitlab', { project_id })).toMatch(/^claim_\w+ project_id/)
    expect(await attest('gitlab', { pipeline_id: '574:302' })).toBe('claim_invalid pipeline_id')
  })

  it('P9 T33 a pin ties gitlab.com to its tenant', async () => {
    const pin = { namespace_id: ['72'] }
    expect(await attest('gitlab', {}, { pin })).toMatchObject({ identity: 'gitlab:project_id=20' })
    expect(await attest('gitlab', { namespace_id: '73' }, { pin })).toBe('tenant_refused namespace_id')
  })

  it('a token that lives as long as its job is taken when the configuration lets it', async () => {
    expect(await attest('gitlab', { exp: NOW + 7_200 })).toBe('life_too_long exp')
    expect(await attest('gitlab', { exp: NOW + 7_200 }, { maxLifeSeconds: 7_200 })).toMatchObject({ identity: 'gitlab:project_id=20' })
  })
})

describe('Buildkite', () => {
  const job = { build_number: 175, job_id: '0184990a-477b-4fa8-9968-496074483cee', agent_id: 'a', build_commit: 'c', sub: 's' }

  it('is known by the ids of organization and pipeline; its run is the job of a build; nothing tells two of its tokens of one second apart', async () => {
    const seen = await attest('buildkite', job)
    expect(seen).toMatchObject({
      identity: 'buildkite:organization_id=0184990a-477b-4fa8-9968-496074483c77&pipeline_id=0184990a-4782-42b5-afc1-16715b10b1f0',
      run: 'buildkite:0184990a-4782-42b5-afc1-16715b10b1f0:175:0184990a-477b-4fa8-9968-496074483cee',
      replay: 'bounded',
      attributes: { build_branch: 'main', build_number: '175', build_source: 'webhook', pipeline_slug: 'orders' },
    })
    expect((seen as Attestation).attributes).not.toHaveProperty('step_key')
    expect((await attest('buildkite', job)) as Attestation).toHaveProperty('mark.id', (seen as Attestation).mark?.id)
    expect(await attest('buildkite', { ...job, jti: 'a-name' })).toMatchObject({ replay: 'single_use', mark: { id: 'jti:a-name' } })
  })

  it.each(['organization_id', 'pipeline_id'])('P2 P9 without %s the answer is how to ask for it; twin: with both', async claim => {
    expect(await attest('buildkite', { [claim]: undefined })).toBe(
      `claim_missing ${claim} ask for it: buildkite-agent oidc request-token --claim organization_id,pipeline_id`,
    )
    expect(await attest('buildkite')).toMatchObject({ profile: 'buildkite' })
  })

  it('P2 T34 a slug that was taken over is another pipeline, a renamed pipeline the same', async () => {
    const taken = (await attest('buildkite', { pipeline_id: '0184990a-4782-42b5-afc1-ffffffffffff' })) as Attestation
    const own = (await attest('buildkite')) as Attestation
    expect(taken.attributes.pipeline_slug).toBe(own.attributes.pipeline_slug)
    expect(taken.identity).not.toBe(own.identity)
    expect(await attest('buildkite', { pipeline_slug: 'renamed', organization_slug: 'acme-inc' })).toMatchObject({ identity: own.identity })
    for (const pipeline_id of ['orders', '0184990A-4782-42B5-AFC1-16715B10B1F0', '0184990a-4782-42b5-afc1-16715b10b1f0 '])
      expect(await attest('buildkite', { pipeline_id })).toBe('claim_invalid pipeline_id')
  })

  it('P9 T33 a pin ties the shared issuer to its organization', async () => {
    const pin = { organization_id: ['0184990a-477b-4fa8-9968-496074483c77'] }
    expect(await attest('buildkite', {}, { pin })).toMatchObject({ profile: 'buildkite' })
    expect(await attest('buildkite', { organization_id: '0184990a-477b-4fa8-9968-ffffffffffff' }, { pin })).toBe('tenant_refused organization_id')
  })

  it('P1 P3 T38 the subject is never read, nor what a branch is called in it', async () => {
    const sub = 'organization:acme:pipeline:orders:ref:refs/heads/x:commit:y:step:pipeline:deploy'
    expect(await attest('buildkite', { sub, build_branch: 'x:commit:y' })).toMatchObject({ attributes: { build_branch: 'x:commit:y' } })
  })
})

describe('CircleCI', () => {
  const claim = (name: string, value: unknown) => ({ [`oidc.circleci.com/${name}`]: value })
  const job = { ...claim('workflow-id', '2b3c4d5e-6f7a-4b8c-9d0e-1f2a3b4c5d6e'), ...claim('job-id', '1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9') }

  it('is known by the ids of organization and project; its run is the job of a workflow; its token is tied to a key', async () => {
    expect(await attest('circleci', job)).toMatchObject({
      identity: 'circleci:org_id=c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e&project_id=3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c',
      run: 'circleci:3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c:2b3c4d5e-6f7a-4b8c-9d0e-1f2a3b4c5d6e:1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9',
      replay: 'bounded',
      attributes: {
        vcs_origin: 'github.com/acme/orders',
        vcs_ref: 'refs/heads/main',
        ssh_rerun: 'false',
        context_ids: ['7b6a5c4d-3e2f-4a1b-8c9d-0e1f2a3b4c5d'],
      },
    })
  })

  it('P11 T39 a job that somebody re-ran to have a shell in it asks for nothing, and one that does not say so neither', async () => {
    for (const said of [true, 'true', 1, 'no', 'False'])
      expect(await attest('circleci', claim('ssh-rerun', said))).toBe('ssh_rerun_refused oidc.circleci.com/ssh-rerun')
    expect(await attest('circleci', claim('ssh-rerun', undefined))).toBe('claim_missing oidc.circleci.com/ssh-rerun')
    expect(await attest('circleci', claim('ssh-rerun', false))).toMatchObject({ profile: 'circleci' })
  })

  it('P10 what its tokens are for by default is not us; twin: asked for us', async () => {
    expect(await attest('circleci', { aud: 'c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e' })).toBe('audience_mismatch aud')
    expect(await attest('circleci', { aud: [SERVER, 'c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e'] })).toBe('audience_mismatch aud')
    expect(await attest('circleci', { aud: SERVER })).toMatchObject({ profile: 'circleci' })
  })

  it('P9 an issuer speaks for its own organization only', async () => {
    expect(await attest('circleci', claim('org-id', 'c9035eb6-6eb2-4c85-8a81-ffffffffffff'))).toBe('claim_mismatch oidc.circleci.com/org-id')
    expect(await attest('circleci', claim('org-id', undefined))).toBe('claim_missing oidc.circleci.com/org-id')
  })

  it('P8 the build of a fork has the fork as its origin, for policy to tell; one of a custom webhook has none', async () => {
    expect(await attest('circleci', claim('vcs-origin', 'github.com/stranger/orders'))).toMatchObject({
      attributes: { vcs_origin: 'github.com/stranger/orders' },
    })
    const { attributes } = (await attest('circleci', { ...claim('vcs-origin', undefined), ...claim('vcs-ref', undefined) })) as Attestation
    expect(attributes).not.toHaveProperty('vcs_origin')
  })

  it('P2 T34 a claim of a similar name, or of another kind, is not the claim', async () => {
    expect(await attest('circleci', { ...claim('project-id', undefined), 'oidc.circleci.com/project_id': 'x' })).toBe(
      'claim_missing oidc.circleci.com/project-id',
    )
    expect(await attest('circleci', claim('project-id', ['3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c']))).toBe('claim_invalid oidc.circleci.com/project-id')
    expect(await attest('circleci', claim('context-ids', 'one'))).toBe('claim_invalid oidc.circleci.com/context-ids')
  })
})

describe.each(CI_PROVIDERS)('the built-in issuer, as %s', provider => {
  let issuer: DevIssuer
  beforeAll(async () => {
    issuer = await startIssuer()
  })
  afterAll(() => issuer?.close())

  it('is found by discovery, and its tokens are believed like the real ones; those of another of its addresses are not', async () => {
    const config = (p: CiProvider) => oidcIssuer(issuer.issuerOf(p), { name: p, profile: p, algs: ['RS256'], internal: true, maxLifeSeconds: 3_600 })
    const real = { ...deps, clock: { now: () => new Date() }, outbound: createOutbound() }
    const attestor = oidcAttestor([config(provider)], real)
    const token = await issuer.token(provider, SERVER)
    expect(await attestor.attest({ type: 'jwt', token }, AbortSignal.timeout(5_000))).toMatchObject({ profile: provider, issuer: provider })
    const other = CI_PROVIDERS.find(p => p !== provider) as CiProvider
    expect(attestor.recognizes({ type: 'jwt', token: await issuer.token(other, SERVER) })).toBe(false)
    const asked = await fetch(`${issuer.issuerOf(provider)}/token?audience=${encodeURIComponent(SERVER)}`)
    const { value } = (await asked.json()) as { value: string }
    expect(await attestor.attest({ type: 'jwt', token: value }, AbortSignal.timeout(5_000))).toMatchObject({ profile: provider })
  })

  it('T16 a token of another class is not theirs', async () => {
    expect(await attest(provider, {}, {}, { typ: 'at+jwt' })).toBe('type_refused')
    expect(await attest(provider, {}, {}, { typ: 'JWT' })).toMatchObject({ profile: provider })
  })
})
