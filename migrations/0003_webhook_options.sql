-- Options of a webhook: what people note about it, what else narrows its events, how often and how
-- fast it is called, and what its requests carry. Only additions, each with a default that means
-- what was true before, so that the release before runs on it.

ALTER TABLE webhooks
  ADD COLUMN description text NOT NULL DEFAULT ''
    CONSTRAINT description_is_short CHECK (char_length(description) <= 1000),
  ADD COLUMN labels jsonb NOT NULL DEFAULT '{}'
    CONSTRAINT labels_are_an_object CHECK (jsonb_typeof(labels) = 'object'),
  -- In the short form; empty = every action.
  ADD COLUMN event_actions text[] NOT NULL DEFAULT '{}'
    CONSTRAINT few_event_actions CHECK (cardinality(event_actions) <= 64),
  -- {"preset": …} or the numbers; null = standard. Coalesced, because a CHECK lets unknown pass.
  ADD COLUMN retry jsonb
    CONSTRAINT retry_is_a_preset_or_whole CHECK (retry IS NULL OR coalesce(
      CASE WHEN retry ? 'preset' THEN retry->>'preset' = 'resilient'
      ELSE (retry->>'maxAttempts')::bigint > 0
        AND (retry->>'baseMs')::bigint >= 0
        AND (retry->>'factorMilli')::bigint >= 1000
        AND (retry->>'capMs')::bigint >= 0
        AND (retry->>'jitterMilli')::bigint BETWEEN 0 AND 1000
        AND (retry->>'maxAgeMs')::bigint >= 0
      END, false)),
  -- All three or none.
  ADD COLUMN rate_count int CHECK (rate_count > 0),
  ADD COLUMN rate_period_seconds int CHECK (rate_period_seconds IN (1, 60)),
  ADD COLUMN rate_burst int CHECK (rate_burst > 0),
  ADD CONSTRAINT a_rate_is_whole CHECK
    (num_nulls(rate_count, rate_period_seconds, rate_burst) IN (0, 3)),
  -- Null: the default.
  ADD COLUMN max_in_flight int CHECK (max_in_flight BETWEEN 1 AND 64),
  ADD COLUMN ordering text NOT NULL DEFAULT 'NONE' CHECK (ordering IN ('NONE', 'LINK', 'VISITOR')),
  -- What may be shown of its headers and credentials: names and masks, no secret.
  ADD COLUMN extras_shown jsonb NOT NULL DEFAULT '{}'
    CONSTRAINT extras_are_an_object CHECK (jsonb_typeof(extras_shown) = 'object'),
  -- Of its ed25519 key; null = it has none.
  ADD COLUMN public_key text,
  -- Newest version in webhook_secrets, ever: no version is used twice.
  ADD COLUMN secret_version int NOT NULL DEFAULT 1 CHECK (secret_version > 0),
  -- Grows each time a person sets the status.
  ADD COLUMN health_epoch bigint NOT NULL DEFAULT 0 CHECK (health_epoch >= 0),
  -- What becomes of the deliveries held before that moment.
  ADD COLUMN held_choice text NOT NULL DEFAULT 'KEEP'
    CHECK (held_choice IN ('KEEP', 'DELIVER', 'DISCARD')),
  ADD COLUMN held_choice_at timestamptz;

-- One table for everything that is sealed for a webhook: one numbering, so that no ciphertext can
-- stand in for another one, and one place for whoever seals anew.
ALTER TABLE webhook_secrets
  ADD COLUMN kind text NOT NULL DEFAULT 'SIGNING'
    CHECK (kind IN ('SIGNING', 'EXTRAS', 'ED25519'));

-- Of signing keys there may be several.
CREATE UNIQUE INDEX webhook_secrets_single ON webhook_secrets (webhook_id, kind)
  WHERE kind <> 'SIGNING';

-- Those that end, for whoever removes them.
CREATE INDEX webhook_secrets_by_expiry ON webhook_secrets (expires_at) WHERE expires_at IS NOT NULL;
