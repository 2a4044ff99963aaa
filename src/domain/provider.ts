/** Owns what each provider of evidence states of a workload: the facts that attestors make and policy reads, under one name in both. */

export interface Stated {
  /** Demanded of the evidence, and so always there for policy. */
  readonly always: readonly string[]
  /** There when the provider says it. */
  readonly maybe: readonly string[]
  /** The same, of several texts. */
  readonly sets?: readonly string[]
}

/** All of it is text, ids and truths included. What identifies nobody and names a person beyond a login (an e-mail address) is left out. */
export const STATED = {
  github: {
    always: ['repository_id', 'repository_owner_id', 'ref', 'event_name'],
    maybe: [
      'repository',
      'repository_owner',
      'repository_visibility',
      'ref_type',
      'ref_protected',
      'head_ref',
      'base_ref',
      'workflow',
      'workflow_ref',
      'workflow_sha',
      'job_workflow_ref',
      'job_workflow_sha',
      'environment',
      'runner_environment',
      'actor',
      'actor_id',
      'run_id',
      'run_number',
      'run_attempt',
      'check_run_id',
      'sha',
      'enterprise_id',
    ],
  },
  gitlab: {
    always: ['project_id', 'namespace_id', 'ref', 'ref_type', 'pipeline_source', 'pipeline_id', 'job_id'],
    maybe: [
      'project_path',
      'namespace_path',
      'project_visibility',
      'ref_path',
      'ref_protected',
      'target_ref',
      'target_ref_protected',
      'pipeline_source_event',
      'environment',
      'environment_protected',
      'environment_action',
      'deployment_tier',
      'ci_config_ref_uri',
      'ci_config_sha',
      'job_project_id',
      'job_namespace_id',
      'job_source',
      'runner_id',
      'runner_environment',
      'sha',
      'user_id',
      'user_login',
      'user_access_level',
    ],
  },
  buildkite: {
    always: ['organization_id', 'pipeline_id', 'build_number', 'build_branch', 'job_id'],
    maybe: [
      'organization_slug',
      'pipeline_slug',
      'build_id',
      'build_tag',
      'build_commit',
      'build_source',
      'step_key',
      'agent_id',
      'cluster_id',
      'cluster_name',
      'queue_id',
      'queue_key',
      'runner_environment',
    ],
  },
  circleci: {
    always: ['org_id', 'project_id', 'ssh_rerun'],
    maybe: ['pipeline_id', 'pipeline_definition_id', 'workflow_id', 'job_id', 'vcs_origin', 'vcs_ref'],
    sets: ['context_ids'],
  },
  kubernetes: { always: ['namespace', 'serviceaccount', 'serviceaccount_uid'], maybe: ['pod', 'pod_uid', 'node', 'node_uid'] },
  spiffe: { always: ['spiffe_id', 'trust_domain', 'path'], maybe: [] },
  registered: { always: ['agent'], maybe: [] },
} as const satisfies Readonly<Record<string, Stated>>
