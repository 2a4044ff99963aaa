#!/bin/sh
# Runs once, when the data volume is new: Curfew's own database, and an orders database as a target to grant access to.
set -eu
secret() { cat "/run/secrets/$1"; }
psql -v ON_ERROR_STOP=1 -U postgres \
  -v curfew="$(secret curfew-db-password)" -v admin="$(secret vault-admin-password)" -v target="$(secret target-password)" <<'SQL'
create role curfew login password :'curfew';
create database curfew owner curfew;
create role app_ro;
-- What Vault logs in as, and what ends sessions and looks: neither is a superuser.
create role vault_admin login createrole password :'admin';
create role orders_target login createrole password :'target';
grant app_ro to vault_admin with admin option;
grant pg_signal_backend, pg_read_all_stats to vault_admin, orders_target;
create database orders;
\connect orders
create table orders (id int primary key, item text not null);
insert into orders select i, 'item ' || i from generate_series(1, 42) i;
grant select on orders to app_ro;
SQL
