/** Owns what the tokens of CI providers look like, claim by claim as their documentation prints them: the built-in issuer and the tests shape theirs so. */
import { randomBytes, randomUUID } from 'node:crypto'
import type { JWTPayload } from 'jose'

export const CI_PROVIDERS = ['github', 'gitlab', 'buildkite', 'circleci'] as const
export type CiProvider = (typeof CI_PROVIDERS)[number]

export const CIRCLECI_ORG = 'c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e'

/** Below the address of one issuer, as each provider has it below its own. */
export const ISSUER_PATHS: Readonly<Record<CiProvider, string>> = {
  github: '',
  gitlab: '/gitlab',
  buildkite: '/buildkite',
  circleci: `/circleci/org/${CIRCLECI_ORG}`,
}

const number = () => String(randomBytes(4).readUInt32BE())
const commit = () => randomBytes(20).toString('hex')

/** A job on the main branch of acme/orders. @param now seconds since the epoch. */
export function ciClaims(provider: CiProvider, iss: string, aud: string, now: number): JWTPayload {
  switch (provider) {
    case 'github':
      return {
        iss,
        aud,
        sub: 'repo:acme@123456/orders@456789:ref:refs/heads/main',
        jti: randomBytes(16).toString('hex'),
        iat: now,
        nbf: now,
        exp: now + 300,
        repository: 'acme/orders',
        repository_id: '456789',
        repository_owner: 'acme',
        repository_owner_id: '123456',
        repository_visibility: 'private',
        ref: 'refs/heads/main',
        ref_type: 'branch',
        event_name: 'push',
        workflow: 'ci',
        workflow_ref: 'acme/orders/.github/workflows/ci.yml@refs/heads/main',
        job_workflow_ref: 'acme/orders/.github/workflows/ci.yml@refs/heads/main',
        runner_environment: 'github-hosted',
        actor: 'dana',
        actor_id: '7',
        run_id: number(),
        run_attempt: '1',
        check_run_id: number(),
        sha: commit(),
      }
    case 'gitlab': {
      const sha = commit()
      return {
        iss,
        aud,
        sub: 'project_path:acme/orders:ref_type:branch:ref:main',
        jti: randomUUID(),
        iat: now,
        nbf: now - 5,
        // As long as the job may take.
        exp: now + 3_600,
        namespace_id: '72',
        namespace_path: 'acme',
        project_id: '20',
        project_path: 'acme/orders',
        project_visibility: 'private',
        job_project_id: '20',
        job_project_path: 'acme/orders',
        job_namespace_id: '72',
        job_namespace_path: 'acme',
        user_id: '1',
        user_login: 'dana',
        user_email: 'dana@example.org',
        user_identities: [{ provider: 'github', extern_uid: '2435223452345' }],
        groups_direct: ['acme'],
        pipeline_id: number(),
        pipeline_source: 'push',
        job_id: number(),
        ref: 'main',
        ref_type: 'branch',
        ref_path: 'refs/heads/main',
        ref_protected: 'true',
        runner_id: 1,
        runner_environment: 'gitlab-hosted',
        sha,
        ci_config_ref_uri: 'gitlab.com/acme/orders//.gitlab-ci.yml@refs/heads/main',
        ci_config_sha: sha,
      }
    }
    case 'buildkite': {
      const build_commit = commit()
      return {
        iss,
        aud,
        sub: `organization:acme:pipeline:orders:ref:refs/heads/main:commit:${build_commit}:step:report`,
        iat: now,
        nbf: now,
        exp: now + 300,
        organization_slug: 'acme',
        organization_id: '0184990a-477b-4fa8-9968-496074483c77',
        pipeline_slug: 'orders',
        pipeline_id: '0184990a-4782-42b5-afc1-16715b10b1f0',
        build_number: randomBytes(2).readUInt16BE() + 1,
        build_branch: 'main',
        build_commit,
        build_source: 'webhook',
        step_key: null,
        job_id: randomUUID(),
        agent_id: randomUUID(),
        runner_environment: 'self-hosted',
      }
    }
    case 'circleci':
      return {
        iss,
        aud,
        sub: `org/${CIRCLECI_ORG}/project/3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c/user/5e6f7a8b-9c0d-4e1f-a2b3-c4d5e6f7a8b9/vcs-origin/github.com/acme/orders/vcs-ref/refs/heads/main`,
        iat: now,
        exp: now + 3_600,
        'oidc.circleci.com/org-id': CIRCLECI_ORG,
        'oidc.circleci.com/project-id': '3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c',
        'oidc.circleci.com/pipeline-id': randomUUID(),
        'oidc.circleci.com/pipeline-definition-id': '0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d',
        'oidc.circleci.com/workflow-id': randomUUID(),
        'oidc.circleci.com/job-id': randomUUID(),
        'oidc.circleci.com/context-ids': ['7b6a5c4d-3e2f-4a1b-8c9d-0e1f2a3b4c5d'],
        'oidc.circleci.com/vcs-origin': 'github.com/acme/orders',
        'oidc.circleci.com/vcs-ref': 'refs/heads/main',
        'oidc.circleci.com/ssh-rerun': false,
      }
    default:
      return provider satisfies never
  }
}
