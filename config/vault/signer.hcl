# What the issuer needs on top where signer.kind is transit: one key, which opens the data keys under which our signing keys are sealed,
# and the digests under which credentials are found. It cannot read, rotate or make a key: `update`, for `create` would make one that is missing.
path "transit/encrypt/curfew" {
  capabilities = ["update"]
}
path "transit/decrypt/curfew" {
  capabilities = ["update"]
}
path "transit/hmac/curfew/sha2-256" {
  capabilities = ["update"]
}
