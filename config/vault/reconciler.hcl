# The reconciler: the revoker's paths, the two listings by which what no row knows is found, and a look at the roles of certificates, whose
# faults are told when the broker starts. Listing needs sudo in Vault; there is no other sudo, and nobody holds revoke-force or
# revoke-prefix. Write your own mounts where they are not `database`, `pki` and `ssh`; leave out those of kinds that you do not use.
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
path "sys/leases/lookup/pki/issue/*" {
  capabilities = ["list", "sudo"]
}
path "sys/leases/lookup/pki/sign/*" {
  capabilities = ["list", "sudo"]
}
path "pki/roles/*" {
  capabilities = ["read"]
}
path "ssh/roles/*" {
  capabilities = ["read"]
}
path "auth/token/accessors" {
  capabilities = ["list", "sudo"]
}
path "auth/token/accessors/" {
  capabilities = ["list", "sudo"]
}
