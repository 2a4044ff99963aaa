#!/bin/sh
# Prepares a Vault (or OpenBao) from zero for Curfew, with curl alone. Run it again as often as you like: it changes what differs.
#
#   VAULT_ADDR            the server
#   VAULT_TOKEN           an admin's token; Curfew itself never sees it
#   OUT                   where the three identities are written, one file each, for their owner alone
#   KINDS                 what is to be issued, of: database pki ssh (default: database). Tokens (vault-token) need a policy
#                         curfew-cap-<name> of your own for each capability, and nothing else: KINDS=''.
#
# database:
#   TARGET_URL_TEMPLATE   postgresql://{{username}}:{{password}}@db.example:5432/orders?sslmode=verify-full
#   TARGET_ADMIN_USER     a login at the target that may create and drop roles, and end their sessions
#   TARGET_ADMIN_PASSWORD
# pki:
#   PKI_DOMAINS           "orders.example", "*.orders.example": DNS names that certificates may carry (default: none)
#   PKI_URIS              "spiffe://example.org/*": URIs that they may carry (default: none)
#   A mount without an issuer is given a root of its own; to chain to yours, put an intermediate there before.
# ssh:
#   SSH_USERS             "deploy,backup": accounts that certificates may be for
# SIGNER=transit         also makes the key that signer.kind transit asks for, and lets the issuer use it (optional)
#
# Of the database role: the shipped statements end sessions. The default ones do not, and an open session then reads on (real-parts.md 2).
set -eu
: "${VAULT_ADDR:?}" "${VAULT_TOKEN:?}" "${OUT:?}"
KINDS=${KINDS-database}
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
  case $code in 2*) ;; *) case "$(cat "$work/answer")" in *'already in use'* | *'keys are already configured'*) ;; *) echo "setup.sh: $1 $2 answered $code" >&2; exit 1 ;; esac ;; esac
}
json() { sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/	/\\t/g' | awk 'NR > 1 { printf "\\n" } { printf "%s", $0 }'; }
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$work/answer"; }

for name in issuer revoker reconciler; do
  printf '{"policy": "%s"}' "$(json <"$here/$name.hcl")" | call PUT "sys/policies/acl/curfew-$name"
done
capability() { # name path verb: the one-path policy of a per-issuance token
  printf '{"policy": "%s"}' "$(printf 'path "%s" {\n  capabilities = ["%s"]\n}\n' "$2" "$3" | json)" | call PUT "sys/policies/acl/curfew-cap-$1"
}
wants() { case " $KINDS " in *" $1 "*) true ;; *) false ;; esac; }

# Per-issuance tokens: orphans, so that our own login may be renewed and revoked without taking them along. The maximum is the longest
# grant (12 h) and 30 s: under a token role Vault 1.21.4 holds renewals to the role's maximum alone, not to the token's own.
echo '{"orphan": true, "renewable": true, "allowed_policies_glob": ["curfew-cap-*"], "token_no_default_policy": true, "token_explicit_max_ttl": "43230s"}' | call POST auth/token/roles/curfew

if wants database; then
  : "${TARGET_URL_TEMPLATE:?}" "${TARGET_ADMIN_USER:?}" "${TARGET_ADMIN_PASSWORD:?}"
  capability orders-ro database/creds/orders-ro read
  echo '{"type": "database"}' | call POST sys/mounts/database
  printf '{"plugin_name": "postgresql-database-plugin", "allowed_roles": ["orders-ro"], "connection_url": "%s", "username": "%s", "password": "%s", "username_template": "%s"}' \
    "$(printf %s "$TARGET_URL_TEMPLATE" | json)" "$(printf %s "$TARGET_ADMIN_USER" | json)" "$(printf %s "$TARGET_ADMIN_PASSWORD" | json)" \
    "$(printf '{{ printf "curfew_%%s" (.DisplayName | replace "token-" "" | lowercase) | truncate 63 }}' | json)" |
    call POST database/config/orders
  printf '{"db_name": "orders", "creation_statements": ["%s"], "revocation_statements": ["%s"], "default_ttl": "900s", "max_ttl": "900s"}' \
    "$(json <"$here/create.sql")" "$(json <"$here/revoke.sql")" | call POST database/roles/orders-ro
fi

if wants pki; then
  capability workload pki/issue/workload update
  capability workload-csr pki/sign/workload update
  echo '{"type": "pki", "config": {"max_lease_ttl": "87600h"}}' | call POST sys/mounts/pki
  # The status line alone: an empty listing is a 404.
  issuers=$(curl -sS -o /dev/null -w '%{http_code}' -K "$work/curl" "$VAULT_ADDR/v1/pki/issuers?list=1")
  [ "$issuers" = 200 ] || echo '{"common_name": "Curfew workloads", "key_type": "ec", "key_bits": 256, "ttl": "87600h"}' | call POST pki/root/generate/internal
  # Every revocation rebuilds the list: what a probe looks for is there at once.
  echo '{"expiry": "72h", "auto_rebuild": false}' | call POST pki/config/crl
  # generate_lease: without a lease nothing of it could be ended (Curfew refuses such a role). The common name is the credential's id.
  printf '{"generate_lease": true, "no_store": false, "allowed_domains": "%s", "allow_bare_domains": true, "allow_glob_domains": true, "allow_subdomains": false, "enforce_hostnames": false, "cn_validations": "disabled", "allow_localhost": false, "allow_ip_sans": false, "allow_wildcard_certificates": false, "allowed_uri_sans": "%s", "use_csr_common_name": false, "use_csr_sans": false, "server_flag": true, "client_flag": true, "key_type": "ec", "key_bits": 256, "ttl": "300s", "max_ttl": "3600s"}' \
    "$(printf 'crd-*%s' "${PKI_DOMAINS:+,$PKI_DOMAINS}" | json)" "$(printf %s "${PKI_URIS:-}" | json)" |
    call POST pki/roles/workload
fi

if wants ssh; then
  : "${SSH_USERS:?}"
  capability login ssh/sign/login update
  echo '{"type": "ssh"}' | call POST sys/mounts/ssh
  # Made once; asked again Vault says that there is one.
  echo '{"generate_signing_key": true, "key_type": "ed25519"}' | call POST ssh/config/ca
  # key_id_format: what a revocation list names, and what sshd writes into its log.
  printf '{"key_type": "ca", "allow_user_certificates": true, "allow_host_certificates": false, "allowed_users": "%s", "allow_empty_principals": false, "allow_user_key_ids": false, "key_id_format": "curfew-{{token_display_name}}", "allowed_extensions": "permit-pty,permit-port-forwarding,permit-agent-forwarding,permit-X11-forwarding,permit-user-rc", "allowed_critical_options": "force-command,source-address", "default_extensions": {}, "ttl": "300s", "max_ttl": "3600s"}' \
    "$(printf %s "$SSH_USERS" | json)" | call POST ssh/roles/login
fi

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
