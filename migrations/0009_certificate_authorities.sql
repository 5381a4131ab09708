-- Certificate authorities that a workspace's endpoints and token endpoints are trusted by, beside the
-- installation's. The row stays when they are taken away (`pem` is empty then), and its revision only
-- grows, so that a late writer of the read model is known by it. No secrets.
CREATE TABLE workspace_authorities (
  workspace_id uuid PRIMARY KEY REFERENCES workspaces,
  pem text NOT NULL CONSTRAINT pem_is_short CHECK (octet_length(pem) <= 32768),
  revision bigint NOT NULL CHECK (revision > 0),
  updated_at timestamptz NOT NULL
);

-- The read model hears of them through the outbox. Its own check knew two words.
ALTER TABLE outbox DROP CONSTRAINT outbox_kind_check;
ALTER TABLE outbox ADD CONSTRAINT outbox_kind_check CHECK (kind IN ('webhook', 'token', 'trust'));
