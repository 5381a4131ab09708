-- Ed25519 keys that go on signing beside the newest one, as signing keys do. The newest stays the one row
-- of kind ED25519, with its public half in `webhooks`; those before it have a kind of their own, which the
-- release before does not read: it signs with the newest alone.
ALTER TABLE webhook_secrets
  ADD COLUMN public_key text,
  DROP CONSTRAINT webhook_secrets_kind_check,
  ADD CONSTRAINT webhook_secrets_kind_check
    CHECK (kind IN ('SIGNING', 'EXTRAS', 'ED25519', 'ED25519_OLD')),
  -- What tells the two kinds apart of which there may be several.
  ADD CONSTRAINT an_old_public_key_is_whole_and_ends
    CHECK (CASE kind WHEN 'ED25519_OLD' THEN num_nulls(public_key, expires_at) = 0
      ELSE public_key IS NULL END);

-- Of old ones there may be several, too.
DROP INDEX webhook_secrets_single;
CREATE UNIQUE INDEX webhook_secrets_single ON webhook_secrets (webhook_id, kind)
  WHERE kind IN ('EXTRAS', 'ED25519');
