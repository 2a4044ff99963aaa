-- What responders work with: acts that name attributes, plans, quarantines that can be lifted, receipts, signals that wait for a person; and delegation.

-- An act by attributes froze the tasks it named, at most a thousand a row; further rows are parts of the first.
alter table curfew.revocations
  add column if not exists filter jsonb,
  add column if not exists named text[],
  add column if not exists part_of text collate "C" references curfew.revocations (id),
  add column if not exists receipt text unique,
  add column if not exists idempotency text unique,
  add column if not exists request_hash text;
alter table curfew.revocations drop constraint if exists revocations_check;
alter table curfew.revocations add constraint revocations_check check ((issued_before is null) = (kind in ('credential', 'task', 'where')));
create index if not exists revocations_parts on curfew.revocations (part_of) where part_of is not null;

create table if not exists curfew.plans (
  id text collate "C" primary key,
  kind text not null,
  key text not null,
  issued_before timestamptz,
  filter jsonb,
  reason text,
  reach jsonb not null,
  made_by jsonb not null,
  made_at timestamptz not null,
  valid_until timestamptz not null,
  revocation text
);
create index if not exists plans_lapsed on curfew.plans (valid_until);

create table if not exists curfew.quarantines (
  id text collate "C" primary key,
  kind text not null,
  key text not null,
  -- Where it is looked for when something is issued: null for one of attributes, which is compared with every new attestation.
  scope text collate "C",
  filter jsonb,
  message text,
  set_by jsonb not null,
  set_at timestamptz not null,
  until timestamptz not null,
  revocation text,
  lifted_at timestamptz,
  lifted_by jsonb,
  lift_reason text,
  check ((scope is null) = (filter is not null)),
  check ((lifted_at is null) = (lift_reason is null))
);
create index if not exists quarantines_scope on curfew.quarantines (scope) where lifted_at is null and scope is not null;
create index if not exists quarantines_filters on curfew.quarantines (until) where lifted_at is null and filter is not null;
create index if not exists quarantines_act on curfew.quarantines (revocation) where revocation is not null;
-- A marker without an id could be neither listed nor lifted.
insert into curfew.quarantines (id, kind, key, scope, message, set_by, set_at, until)
select 'qrn_' || substr(translate(md5(scope) || md5(scope), 'ilou', '1100'), 1, 26), split_part(scope, ':', 1), substr(scope, strpos(scope, ':') + 1), scope, message, set_by, curfew.now(), until
from curfew.deny_markers where until > curfew.now() on conflict do nothing;
drop table curfew.deny_markers;

-- A rule that would end more than its cap: it waits for a person, with what it would have ended.
alter table curfew.signals
  add column if not exists held jsonb,
  add column if not exists verdict jsonb,
  add column if not exists quarantine text;
update curfew.signals set act = jsonb_set(act, '{kind}', '"quarantine"') where act->>'kind' = 'deny';
update curfew.signals set act = act || '{"cap": 100}' where act->>'kind' = 'revoke';
create index if not exists signals_held on curfew.signals (id) where held is not null and handled_at is null;

-- What was replaced under its Idempotency-Key and no act names yet.
create index if not exists credentials_untold on curfew.credentials (id) where revocation is null and reason = 'cancelled';

-- Resource servers that hold the feed: of a key only the sealed digest, and of each process what it has applied.
create table if not exists curfew.guards (
  id text collate "C" primary key,
  name text not null unique,
  key_digest text not null unique,
  created_at timestamptz not null,
  disabled_at timestamptz
);
create table if not exists curfew.guard_instances (
  guard text collate "C" not null references curfew.guards (id),
  instance text not null,
  seq bigint not null,
  lag_ms double precision,
  seen_at timestamptz not null,
  primary key (guard, instance)
);

-- Whose work a task below another does: the identities above it, nearest first, the principal last.
alter table curfew.tasks add column if not exists actors jsonb not null default '[]';

-- A run that its provider says is over is refused like one that was revoked; what it has open is ended behind the mark.
alter table curfew.tasks add column if not exists ended_by jsonb;
alter table curfew.tombstones
  alter column revocation drop not null,
  add column if not exists source text,
  add column if not exists conclusion text,
  add column if not exists ending boolean not null default false;
create index if not exists tombstones_ending on curfew.tombstones (run) where ending;
create index if not exists tasks_open_run on curfew.tasks (issuer_id, (run collate "C")) where state = 'open' and run is not null;
-- GitHub's runs are called with the repository's owner now: five parts become six.
create temporary table renamed_runs on commit drop as
select distinct issuer_id, run as was, split_part(run, ':', 1) || ':' || coalesce(attestation->'attributes'->>'repository_owner_id', '') || substr(run, strpos(run, ':')) as is_now
from curfew.tasks where attestation->>'profile' = 'github' and array_length(string_to_array(run, ':'), 1) = 5;
update curfew.tombstones s set run = m.issuer_id || ' ' || m.is_now from renamed_runs m where s.run = m.issuer_id || ' ' || m.was;
update curfew.tasks t set run = m.is_now, attestation = jsonb_set(t.attestation, '{run}', to_jsonb(m.is_now)) from renamed_runs m where t.issuer_id = m.issuer_id and t.run = m.was;
