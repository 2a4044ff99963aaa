-- What only its own end ends is listed for targets for a while after it (GET /v1/ssh/krl): by engine, and of this class alone, so that the
-- many rows of other kinds cost nothing.
create index if not exists credentials_over on curfew.credentials (engine, revoked_at) where state = 'revoked' and class = 'expiry-only';
