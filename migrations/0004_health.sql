-- What deliveries make of a webhook's status, told to people.

-- Operational events that were acted on: each once, however often it is told.
CREATE TABLE health_news (
  episode_id text NOT NULL,
  kind text NOT NULL,
  webhook_id uuid NOT NULL,
  at timestamptz NOT NULL,
  PRIMARY KEY (episode_id, kind)
);

CREATE INDEX health_news_by_age ON health_news (at);

-- Mails that are to go out, a row for each recipient.
CREATE TABLE mail_outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  workspace_id uuid NOT NULL,
  -- Of the mail; the same on every try, so that a mail server may drop a repetition.
  message_id text NOT NULL UNIQUE,
  recipient text NOT NULL,
  subject text NOT NULL,
  body text NOT NULL,
  created_at timestamptz NOT NULL,
  tries int NOT NULL DEFAULT 0 CHECK (tries >= 0),
  next_try_at timestamptz NOT NULL,
  sent_at timestamptz,
  given_up_at timestamptz,
  last_error text,
  CONSTRAINT it_ends_one_way CHECK (sent_at IS NULL OR given_up_at IS NULL)
);

CREATE INDEX mail_outbox_due ON mail_outbox (next_try_at) WHERE sent_at IS NULL AND given_up_at IS NULL;
CREATE INDEX mail_outbox_by_age ON mail_outbox (created_at);
