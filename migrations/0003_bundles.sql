-- What an idempotency key stands for may be a bundle: one row for each of its parts, written and replaced together.

alter table curfew.idempotency add column if not exists part smallint not null default 0;
alter table curfew.idempotency drop constraint if exists idempotency_pkey;
alter table curfew.idempotency add constraint idempotency_pkey primary key (task, key, part);
