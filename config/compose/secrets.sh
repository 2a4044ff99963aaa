#!/bin/sh
# Makes the secrets of compose.yaml once, into .secrets/, for their owner alone. Run again, it makes only what is missing.
set -eu
cd "$(dirname "$0")/../.."
umask 077
mkdir -p .secrets
# Files that a container's own user must read are protected by their folder, which only we can enter.
random() { [ -s ".secrets/$1" ] || { head -c 32 /dev/urandom | base64 | tr -d '\n' >".secrets/$1"; chmod 444 ".secrets/$1"; }; }
# Passwords go into URLs: letters and digits only.
password() { [ -s ".secrets/$1" ] || { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >".secrets/$1"; chmod 444 ".secrets/$1"; }; }
text() { [ -s ".secrets/$1" ] || { printf '%s' "$2" >".secrets/$1"; chmod 444 ".secrets/$1"; }; }

random master-key
for name in postgres-password curfew-db-password redis-password vault-root-token vault-admin-password target-password orders-secret legacy-orders-secret edr-secret; do password "$name"; done
text database-url "postgresql://curfew:$(cat .secrets/curfew-db-password)@postgres:5432/curfew"
text redis-url "redis://:$(cat .secrets/redis-password)@redis:6379"
text target-url "postgresql://orders_target:$(cat .secrets/target-password)@postgres:5432/orders"
echo 'secrets.sh: .secrets/ is complete'
