-- The durable truth: tasks, credentials, revocations, marks, and the audit rows that every act writes beside them.

create schema if not exists curfew;

-- The only clock that decides. A function of its own, so that a test can move time where rows are decided and nowhere else.
create or replace function curfew.now() returns timestamptz language sql volatile as 'select clock_timestamp()';

create table curfew.tasks (
  id text primary key,
  purpose text not null,
  capabilities text[] not null,
  parent text references curfew.tasks (id),
  ancestors text[] not null default '{}',
  owner text,
  labels jsonb not null default '{}',
  attestation jsonb not null,
  issuer text not null,
  identity text not null,
  run text,
  jkt text not null,
  state text not null check (state in ('open', 'completed', 'cancelled', 'expired', 'revoked')),
  opened_at timestamptz not null,
  deadline_at timestamptz not null,
  heartbeat_seconds integer,
  heartbeat_at timestamptz not null,
  ended_at timestamptz,
  end_reason text,
  outcome text,
  version integer not null default 1
);
create index tasks_open_deadline on curfew.tasks (deadline_at) where state = 'open';
create index tasks_open_heartbeat on curfew.tasks (heartbeat_at) where state = 'open' and heartbeat_seconds is not null;
create index tasks_identity on curfew.tasks (identity, id);
create index tasks_parent on curfew.tasks (parent) where parent is not null;

create table curfew.decisions (
  id text primary key,
  at timestamptz not null,
  allowed boolean not null,
  identity text not null,
  issuer text not null,
  capability text not null,
  task text,
  policies text[] not null,
  digest text not null,
  obligations jsonb not null,
  reason text not null,
  explanation jsonb,
  attributes jsonb not null
);
create index decisions_identity on curfew.decisions (identity, id);
create index decisions_capability on curfew.decisions (capability, id);

create table curfew.credentials (
  id text primary key,
  task text not null references curfew.tasks (id),
  ancestors text[] not null,
  identity text not null,
  issuer text not null,
  issuer_id text not null,
  capability text not null,
  audience text,
  engine text not null,
  class text not null check (class in ('instant', 'backend', 'expiry-only')),
  decision text not null,
  jkt text,
  kid text,
  digest text,
  state text not null check (state in ('pending', 'active', 'revoking', 'stuck', 'revoked')),
  version integer not null default 1,
  issued_at timestamptz not null,
  expires_at timestamptz not null,
  deadline_at timestamptz not null,
  handle jsonb,
  revocation text,
  reason text,
  revoking_at timestamptz,
  revoked_at timestamptz,
  attempts integer not null default 0,
  next_attempt_at timestamptz,
  claimed_until timestamptz,
  failure text,
  probe jsonb
);
create index credentials_expiry on curfew.credentials (expires_at) where state = 'active';
create index credentials_pending on curfew.credentials (deadline_at) where state = 'pending';
create index credentials_due on curfew.credentials (engine, next_attempt_at) where state in ('revoking', 'stuck');
create index credentials_task on curfew.credentials (task, id);
create index credentials_identity on curfew.credentials (identity, id);
create index credentials_live on curfew.credentials (capability) where state in ('pending', 'active');
create index credentials_engine_active on curfew.credentials (engine, id) where state = 'active';
create index credentials_revocation on curfew.credentials (revocation) where revocation is not null;
create index credentials_digest on curfew.credentials (digest) where digest is not null;

-- What a reader polls by seq. The counter row is updated inside the exclusive cut-off lock, so seq follows commits and has no gaps.
create table curfew.counters (name text primary key, value bigint not null);
insert into curfew.counters (name, value) values ('seq', 0) on conflict do nothing;

create table curfew.revocations (
  id text primary key,
  seq bigint not null unique,
  kind text not null,
  key text not null,
  issued_before timestamptz,
  reason text not null,
  actor jsonb not null,
  message text,
  at timestamptz not null,
  until timestamptz not null,
  credentials integer not null,
  tasks integer not null
);
create index revocations_cutoff on curfew.revocations (kind, key, issued_before) where issued_before is not null;

create table curfew.deny_markers (
  kind text not null,
  key text not null,
  until timestamptz not null,
  message text,
  set_by jsonb not null,
  primary key (kind, key)
);

create table curfew.tombstones (run text primary key, until timestamptz not null, revocation text not null);

create table curfew.marks (
  namespace text not null,
  id text not null,
  holder text,
  until timestamptz not null,
  primary key (namespace, id)
);
create index marks_until on curfew.marks (until);

create table curfew.idempotency (
  task text not null references curfew.tasks (id),
  key text not null,
  hash text not null,
  credential text not null,
  primary key (task, key)
);

create table curfew.audit (
  id bigint generated always as identity primary key,
  at timestamptz not null,
  kind text not null,
  actor jsonb not null,
  subject text,
  reason text,
  request_id text,
  data jsonb not null,
  leaf bigint
);
create index audit_subject on curfew.audit (subject, id) where subject is not null;
create index audit_unsequenced on curfew.audit (id) where leaf is null;

create table curfew.signals (
  id text primary key,
  source text not null,
  event_id text not null,
  type text not null,
  severity text not null,
  subject jsonb not null,
  occurred_at timestamptz not null,
  received_at timestamptz not null,
  detail text,
  rule text,
  act jsonb,
  revocation text,
  handled_at timestamptz,
  unique (source, event_id)
);
create index signals_due on curfew.signals (received_at) where act is not null and handled_at is null;

create table curfew.operators (
  id text primary key,
  name text not null unique,
  role text not null check (role in ('responder', 'admin', 'auditor')),
  token_digest text not null unique,
  created_at timestamptz not null,
  disabled_at timestamptz
);

create table curfew.signing_keys (
  kid text primary key,
  class text not null,
  alg text not null,
  public_jwk jsonb not null,
  sealed text not null,
  state text not null check (state in ('next', 'current', 'retired')),
  created_at timestamptz not null,
  activates_at timestamptz not null,
  retires_at timestamptz
);
create unique index signing_keys_one on curfew.signing_keys (class, alg, state) where state in ('next', 'current');
