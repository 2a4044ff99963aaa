#!/bin/sh
# Prepares a Vault (or OpenBao) from zero for Curfew, with curl alone. Run it again as often as you like: it changes what differs.
#
#   VAULT_ADDR            the server
#   VAULT_TOKEN           an admin's token; Curfew itself never sees it
#   TARGET_URL_TEMPLATE   postgresql://{{username}}:{{password}}@db.example:5432/orders?sslmode=verify-full
#   TARGET_ADMIN_USER     a login at the target that may create and drop roles, and end their sessions
#   TARGET_ADMIN_PASSWORD
#   SIGNER                transit: also makes the key that signer.kind transit asks for, and lets the issuer use it (optional)
#   OUT                   where the three identities are written, one file each, for their owner alone
#
# Of the role: the shipped statements end sessions. The default ones do not, and an open session then reads on (real-parts.md 2).
set -eu
: "${VAULT_ADDR:?}" "${VAULT_TOKEN:?}" "${TARGET_URL_TEMPLATE:?}" "${TARGET_ADMIN_USER:?}" "${TARGET_ADMIN_PASSWORD:?}" "${OUT:?}"
here=$(cd "$(dirname "$0")" && pwd)
umask 077
mkdir -p "$OUT"

# A secret on the command line is everybody's: bodies and the token go through files that only we read.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf 'header = "X-Vault-Token: %s"\n' "$VAULT_TOKEN" >"$work/curl"

call() { # method path [body on stdin]
  cat >"$work/body"
  code=$(curl -sS -o "$work/answer" -w '%{http_code}' -K "$work/curl" -X "$1" -H 'Content-Type: application/json' --data-binary @"$work/body" "$VAULT_ADDR/v1/$2")
  case $code in 2*) ;; *) case "$(cat "$work/answer")" in *'already in use'*) ;; *) echo "setup.sh: $1 $2 answered $code" >&2; exit 1 ;; esac ;; esac
}
json() { sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/	/\\t/g' | awk 'NR > 1 { printf "\\n" } { printf "%s", $0 }'; }
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$work/answer"; }

for name in issuer revoker reconciler; do
  printf '{"policy": "%s"}' "$(json <"$here/$name.hcl")" | call PUT "sys/policies/acl/curfew-$name"
done
printf '{"policy": "%s"}' "$(printf 'path "database/creds/orders-ro" {\n  capabilities = ["read"]\n}\n' | json)" | call PUT sys/policies/acl/curfew-cap-orders-ro

# Per-issuance tokens: orphans, so that our own login may be renewed and revoked without taking them along. The maximum is the longest
# grant (12 h) and 30 s: under a token role Vault 1.21.4 holds renewals to the role's maximum alone, not to the token's own.
echo '{"orphan": true, "renewable": true, "allowed_policies_glob": ["curfew-cap-*"], "token_no_default_policy": true, "token_explicit_max_ttl": "43230s"}' | call POST auth/token/roles/curfew

echo '{"type": "database"}' | call POST sys/mounts/database
printf '{"plugin_name": "postgresql-database-plugin", "allowed_roles": ["orders-ro"], "connection_url": "%s", "username": "%s", "password": "%s", "username_template": "%s"}' \
  "$(printf %s "$TARGET_URL_TEMPLATE" | json)" "$(printf %s "$TARGET_ADMIN_USER" | json)" "$(printf %s "$TARGET_ADMIN_PASSWORD" | json)" \
  "$(printf '{{ printf "curfew_%%s" (.DisplayName | replace "token-" "" | lowercase) | truncate 63 }}' | json)" |
  call POST database/config/orders
printf '{"db_name": "orders", "creation_statements": ["%s"], "revocation_statements": ["%s"], "default_ttl": "900s", "max_ttl": "900s"}' \
  "$(json <"$here/create.sql")" "$(json <"$here/revoke.sql")" | call POST database/roles/orders-ro

# It never leaves Vault. Rotate it as you like; version 1 must stay, for digests are made with it.
signer=
if [ "${SIGNER:-}" = transit ]; then
  echo '{"type": "transit"}' | call POST sys/mounts/transit
  echo '{"type": "aes256-gcm96"}' | call POST transit/keys/curfew
  printf '{"policy": "%s"}' "$(json <"$here/signer.hcl")" | call PUT sys/policies/acl/curfew-signer
  signer=', "curfew-signer"'
fi

echo '{"type": "approle"}' | call POST sys/auth/approle
for name in issuer revoker reconciler; do
  also=; [ "$name" = issuer ] && also=$signer
  printf '{"token_policies": ["curfew-%s"%s], "token_no_default_policy": true, "token_ttl": "1h", "token_max_ttl": "24h", "secret_id_ttl": "0"}' "$name" "$also" | call POST "auth/approle/role/curfew-$name"
  printf '{"role_id": "curfew-%s"}' "$name" | call POST "auth/approle/role/curfew-$name/role-id"
  echo '{}' | call POST "auth/approle/role/curfew-$name/secret-id"
  field secret_id >"$OUT/vault-$name-secret-id"
  [ -s "$OUT/vault-$name-secret-id" ] || { echo "setup.sh: no secret id for $name" >&2; exit 1; }
done
echo "setup.sh: Vault is prepared; the identities are in $OUT"
