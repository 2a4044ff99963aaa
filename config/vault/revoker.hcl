# The revoker: ends leases and tokens by the ids that our rows hold, and looks whether they are gone. It cannot list: what it may
# end, it must have been told.
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
