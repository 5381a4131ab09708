-- Configuration: workspaces, their tokens and webhooks, and what a change of these leaves behind.
--
-- Every change writes its row, an outbox row and an audit row in one transaction. CHECKs hold what
-- the program relies on, so that a row edited by hand cannot mean two things.

CREATE TABLE workspaces (
  id uuid PRIMARY KEY,
  name text NOT NULL,
  plan text NOT NULL CHECK (plan IN ('FREE', 'LIGHT', 'PRO', 'ENTERPRISE')),
  owner_member uuid NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL
);

-- A token is stored by the SHA-256 of its text. Revoked ones stay, so that a log can name them.
CREATE TABLE tokens (
  id text PRIMARY KEY,
  workspace_id uuid NOT NULL REFERENCES workspaces,
  hash bytea NOT NULL CHECK (octet_length(hash) = 32),
  name text NOT NULL,
  scopes text[] NOT NULL,
  created_by uuid NOT NULL,
  created_at timestamptz NOT NULL,
  expires_at timestamptz,
  revoked_at timestamptz,
  revision bigint NOT NULL CHECK (revision > 0)
);

CREATE INDEX tokens_by_workspace ON tokens (workspace_id, created_at, id);

CREATE TABLE webhooks (
  id uuid PRIMARY KEY,
  workspace_id uuid NOT NULL REFERENCES workspaces,
  name text NOT NULL,
  endpoint_url text NOT NULL,
  status text NOT NULL,
  status_reason text,
  triggers text[] NOT NULL,
  source text NOT NULL CHECK (source IN ('LINKBREAKERS', 'MAKE', 'ZAPIER')),
  profile text NOT NULL,
  created_by uuid NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  revision bigint NOT NULL CHECK (revision > 0),
  -- Coalesced, because a CHECK lets unknown pass.
  CONSTRAINT status_has_its_reason CHECK (coalesce(CASE status
    WHEN 'ACTIVE' THEN status_reason IS NULL
    WHEN 'PAUSED' THEN status_reason IN ('USER', 'DELIVERY_FAILURES')
    WHEN 'DISABLED' THEN status_reason = 'USER'
    WHEN 'AUTO_DISABLED' THEN status_reason IN ('CONSECUTIVE_FAILURES', 'ENDPOINT_GONE')
  END, false))
);

-- The order of lists; neither column ever changes.
CREATE INDEX webhooks_by_workspace ON webhooks (workspace_id, created_at, id);

CREATE TABLE webhook_links (
  webhook_id uuid NOT NULL REFERENCES webhooks ON DELETE CASCADE,
  link_id uuid NOT NULL,
  -- Where its owner put it.
  position int NOT NULL,
  PRIMARY KEY (webhook_id, link_id)
);

-- Signing keys, encrypted by the program for this webhook and version.
CREATE TABLE webhook_secrets (
  webhook_id uuid NOT NULL REFERENCES webhooks ON DELETE CASCADE,
  version int NOT NULL CHECK (version > 0),
  key_id text NOT NULL,
  nonce bytea NOT NULL,
  ciphertext bytea NOT NULL,
  expires_at timestamptz,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (webhook_id, version)
);

-- What the read model has yet to hear. No foreign key: the row of a deletion outlives its subject.
CREATE TABLE outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('webhook', 'token')),
  workspace_id uuid NOT NULL,
  key text NOT NULL,
  revision bigint NOT NULL
);

-- Kept for a day. `subject` is what the key's holder made, `status` and `body` what was answered.
CREATE TABLE idempotency_keys (
  token_id text NOT NULL,
  key text NOT NULL,
  request_hash bytea NOT NULL,
  started_at timestamptz NOT NULL,
  subject uuid,
  status int,
  body bytea,
  PRIMARY KEY (token_id, key),
  CONSTRAINT an_answer_is_whole CHECK ((status IS NULL) = (body IS NULL))
);

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (started_at);

-- Who changed what. Never updated; holds no secrets.
CREATE TABLE audit_log (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  workspace_id uuid NOT NULL,
  -- `token:<id>`, `operator` or `system`.
  actor text NOT NULL,
  -- `webhook.create`, `token.revoke`, …
  action text NOT NULL,
  subject text NOT NULL,
  at timestamptz NOT NULL,
  before jsonb,
  after jsonb
);

CREATE INDEX audit_log_by_workspace ON audit_log (workspace_id, at, id);
