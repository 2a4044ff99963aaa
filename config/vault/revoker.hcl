# The revoker: ends leases, tokens and certificates by the ids that our rows hold, and looks whether they are gone. It cannot list:
# what it may end, it must have been told.
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
# Certificates by their serial: for what has no lease any more. Write your own mount where it is not `pki`; leave it out without vault-pki.
path "pki/revoke" {
  capabilities = ["create", "update"]
}
