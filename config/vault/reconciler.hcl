# The reconciler: the revoker's paths, and the two listings by which what no row knows is found. Listing needs sudo in Vault; there is
# no other sudo, and nobody holds revoke-force or revoke-prefix.
path "sys/leases/revoke" {
  capabilities = ["create", "update"]
}
path "sys/leases/lookup" {
  capabilities = ["create", "update"]
}
path "auth/token/revoke-accessor" {
  capabilities = ["create", "update"]
}
path "auth/token/lookup-accessor" {
  capabilities = ["create", "update"]
}
path "sys/leases/lookup/database/creds/*" {
  capabilities = ["list", "sudo"]
}
path "auth/token/accessors" {
  capabilities = ["list", "sudo"]
}
path "auth/token/accessors/" {
  capabilities = ["list", "sudo"]
}
