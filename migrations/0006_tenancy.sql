-- Tenancy: what an operator sets for a workspace, what a token is and when it was used, and where a
-- change came from. Only additions, each with a default, so that the release before runs on it.

ALTER TABLE workspaces
  -- Its tokens are test tokens.
  ADD COLUMN sandbox boolean NOT NULL DEFAULT false,
  ADD COLUMN notification_emails text[] NOT NULL DEFAULT '{}'
    CONSTRAINT few_notification_emails CHECK (cardinality(notification_emails) <= 10),
  -- Null: as the plan or the installation says.
  ADD COLUMN max_webhooks int CHECK (max_webhooks >= 0),
  ADD COLUMN retry_max_attempts int CHECK (retry_max_attempts > 0),
  ADD COLUMN retry_max_age_seconds bigint CHECK (retry_max_age_seconds > 0),
  ADD COLUMN events_per_second int CHECK (events_per_second > 0),
  ADD COLUMN held_per_webhook int CHECK (held_per_webhook >= 0),
  -- A deleted workspace stays as a row: its history outlives it, and its id is never used again.
  ADD COLUMN deleted_at timestamptz;

-- The order of the operators' list.
CREATE INDEX workspaces_by_creation ON workspaces (created_at, id) WHERE deleted_at IS NULL;

ALTER TABLE tokens
  ADD COLUMN key_type text NOT NULL DEFAULT 'SECRET' CHECK (key_type IN ('SECRET', 'PUBLISHABLE')),
  -- Null: since it was made.
  ADD COLUMN updated_at timestamptz,
  -- Null: never. Written at most once a minute.
  ADD COLUMN last_used_at timestamptz;

-- The order of a workspace's list, which shows those that are not revoked.
CREATE INDEX tokens_in_force ON tokens (workspace_id, created_at, id) WHERE revoked_at IS NULL;

-- Null: the change did not come over the network.
ALTER TABLE audit_log
  ADD COLUMN remote_ip text,
  ADD COLUMN user_agent text,
  ADD COLUMN request_id text;
