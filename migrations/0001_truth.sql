-- The durable truth: tasks, credentials, revocations, marks, and the audit rows that every act writes beside them.
-- Ids and scopes compare byte by byte (collate "C"): their order is the order of locks, and must not hang on a server's locale.

create schema if not exists curfew;

-- The only clock that decides. A function of its own, so that a test can move time where rows are decided and nowhere else.
-- Statements call it as (select curfew.now()): a volatile function in a condition is asked once a row and keeps the planner from every index.
create or replace function curfew.now() returns timestamptz language sql volatile as 'select clock_timestamp()';

create table if not exists curfew.tasks (
  id text collate "C" primary key,
  purpose text not null,
  capabilities text[] not null,
  parent text collate "C" references curfew.tasks (id),
  ancestors text[] not null,
  owner text,
  labels jsonb not null,
  attestation jsonb not null,
  identity text collate "C" not null,
  issuer text not null,
  issuer_id text not null,
  run text,
  jkt text not null,
  state text not null check (state in ('open', 'completed', 'cancelled', 'expired', 'revoked')),
  opened_at timestamptz not null,
  deadline_at timestamptz not null,
  heartbeat_seconds integer,
  heartbeat_at timestamptz not null,
  -- The earlier of its deadline and of too long a silence: when a sweep ends it.
  due_at timestamptz not null,
  ended_at timestamptz,
  end_reason text,
  outcome text,
  revocation text,
  -- False on an ended task whose credentials have not all been closed yet.
  drained boolean not null,
  version integer not null,
  check ((state = 'open') = (ended_at is null))
);
create index if not exists tasks_due on curfew.tasks (due_at) where state = 'open';
create index if not exists tasks_open on curfew.tasks (opened_at) where state = 'open';
create index if not exists tasks_open_identity on curfew.tasks (identity, opened_at) where state = 'open';
create index if not exists tasks_identity on curfew.tasks (identity, id);
create index if not exists tasks_parent on curfew.tasks (parent) where parent is not null;
create index if not exists tasks_undrained on curfew.tasks (id) where not drained;

create table if not exists curfew.decisions (
  id text collate "C" primary key,
  at timestamptz not null,
  allowed boolean not null,
  identity text collate "C" not null,
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
create index if not exists decisions_identity on curfew.decisions (identity, id);
create index if not exists decisions_denied on curfew.decisions (id) where not allowed;

create table if not exists curfew.credentials (
  id text collate "C" primary key,
  task text collate "C" not null references curfew.tasks (id),
  ancestors text[] not null,
  identity text collate "C" not null,
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
  version integer not null,
  issued_at timestamptz not null,
  expires_at timestamptz not null,
  deadline_at timestamptz not null,
  handle jsonb,
  revocation text,
  reason text,
  revoking_at timestamptz,
  revoked_at timestamptz,
  attempts integer not null,
  next_attempt_at timestamptz,
  claimed_until timestamptz,
  failure text,
  probe jsonb,
  check ((state in ('pending', 'active')) = (reason is null))
);
create index if not exists credentials_expiry on curfew.credentials (expires_at) where state = 'active';
create index if not exists credentials_pending on curfew.credentials (deadline_at) where state = 'pending';
create index if not exists credentials_due on curfew.credentials (next_attempt_at) where state in ('revoking', 'stuck');
create index if not exists credentials_due_engine on curfew.credentials (engine, next_attempt_at) where state in ('revoking', 'stuck');
create index if not exists credentials_task on curfew.credentials (task, id);
create index if not exists credentials_identity on curfew.credentials (identity, id);
-- What a cut-off may have to close, and what counts against a capability's cap. An issuer's, a key's and everybody's rows are found by their age alone.
create index if not exists credentials_open_identity on curfew.credentials (identity, issued_at) where state in ('pending', 'active');
create index if not exists credentials_open_capability on curfew.credentials (capability, issued_at) where state in ('pending', 'active');
create index if not exists credentials_open on curfew.credentials (issued_at) where state in ('pending', 'active');
create index if not exists credentials_engine on curfew.credentials (engine, id) where state = 'active';
create index if not exists credentials_revocation on curfew.credentials (revocation, id) where revocation is not null;
create index if not exists credentials_digest on curfew.credentials (digest) where digest is not null;
create index if not exists credentials_lease on curfew.credentials ((handle->>'leaseId')) where handle is not null;
create index if not exists credentials_revoked on curfew.credentials (revoked_at) where state = 'revoked';

-- Nothing returns (I3). Our statements never try; this stops the one that some day would.
create or replace function curfew.guard_credential() returns trigger language plpgsql as $$
begin
  if (old.state, new.state) in (('pending', 'active'), ('pending', 'revoking'), ('active', 'revoking'), ('revoking', 'revoked'), ('revoking', 'stuck'), ('stuck', 'revoked')) then
    return new;
  end if;
  raise exception 'a credential cannot go from % to %', old.state, new.state using errcode = 'check_violation';
end $$;
drop trigger if exists guard_state on curfew.credentials;
create trigger guard_state before update on curfew.credentials for each row when (old.state is distinct from new.state) execute function curfew.guard_credential();

create or replace function curfew.guard_task() returns trigger language plpgsql as $$
begin
  if old.state = 'open' then
    return new;
  end if;
  raise exception 'a task cannot go from % to %', old.state, new.state using errcode = 'check_violation';
end $$;
drop trigger if exists guard_state on curfew.tasks;
create trigger guard_state before update on curfew.tasks for each row when (old.state is distinct from new.state) execute function curfew.guard_task();

-- What a reader polls by seq. The counter's row is updated under the exclusive cut-off lock, so that seq follows commits and has no gaps.
create table if not exists curfew.counters (name text primary key, value bigint not null);
insert into curfew.counters (name, value) values ('seq', 0) on conflict do nothing;

create table if not exists curfew.revocations (
  id text collate "C" primary key,
  seq bigint not null unique,
  kind text not null,
  key text not null,
  scope text collate "C" not null generated always as (kind || ':' || key) stored,
  issued_before timestamptz,
  reason text not null,
  actor jsonb not null,
  message text,
  at timestamptz not null,
  until timestamptz not null,
  credentials integer not null,
  tasks integer not null,
  -- When a pass found nothing left behind the cut-off. Null: batches still close.
  closed_at timestamptz,
  check ((issued_before is null) = (kind in ('credential', 'task')))
);
create index if not exists revocations_scope on curfew.revocations (scope, issued_before);
create index if not exists revocations_closing on curfew.revocations (seq) where closed_at is null;

create table if not exists curfew.deny_markers (
  scope text collate "C" primary key,
  until timestamptz not null,
  message text,
  set_by jsonb not null
);

create table if not exists curfew.tombstones (run text collate "C" primary key, until timestamptz not null, revocation text not null);

create table if not exists curfew.marks (
  namespace text collate "C" not null,
  id text collate "C" not null,
  holder text,
  until timestamptz not null,
  primary key (namespace, id)
);
create index if not exists marks_until on curfew.marks (until);

create table if not exists curfew.idempotency (
  task text collate "C" not null references curfew.tasks (id),
  key text not null,
  hash text not null,
  credential text not null,
  primary key (task, key)
);

create table if not exists curfew.audit (
  id bigint generated always as identity primary key,
  at timestamptz not null,
  kind text not null,
  actor jsonb not null,
  subject text collate "C",
  reason text,
  request_id text,
  data jsonb not null,
  leaf bigint
);
create index if not exists audit_subject on curfew.audit (subject, id) where subject is not null;
create index if not exists audit_kind on curfew.audit (kind, id);
create index if not exists audit_unsequenced on curfew.audit (id) where leaf is null;

-- Evidence is added to, never edited: only the sequencer may give a row its leaf, once.
create or replace function curfew.guard_audit() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' and old.leaf is null and new.leaf is not null and to_jsonb(new) - 'leaf' = to_jsonb(old) - 'leaf' then
    return new;
  end if;
  raise exception 'audit rows are never changed' using errcode = 'check_violation';
end $$;
drop trigger if exists guard_rows on curfew.audit;
create trigger guard_rows before update or delete on curfew.audit for each row execute function curfew.guard_audit();

create table if not exists curfew.signals (
  id text collate "C" primary key,
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
create index if not exists signals_due on curfew.signals (received_at) where act is not null and handled_at is null;

create table if not exists curfew.operators (
  id text collate "C" primary key,
  name text not null unique,
  role text not null check (role in ('responder', 'admin', 'auditor')),
  token_digest text not null unique,
  created_at timestamptz not null,
  disabled_at timestamptz
);

create table if not exists curfew.signing_keys (
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
create unique index if not exists signing_keys_one on curfew.signing_keys (class, alg, state) where state in ('next', 'current');
