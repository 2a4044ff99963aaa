# The issuer: makes per-issuance tokens under one token role, keeps them alive, takes them back. It reads no secret itself: that is
# done with the per-issuance token, whose policy is one path.
path "auth/token/create/curfew" {
  capabilities = ["create", "update"]
}
path "auth/token/renew-accessor" {
  capabilities = ["create", "update"]
}
path "auth/token/revoke-accessor" {
  capabilities = ["create", "update"]
}
