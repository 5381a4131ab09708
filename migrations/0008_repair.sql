-- What finds obligations that fell between the streams and the tables.

-- Events come nearly in the order of their place on the stream, so a block range index is a few
-- pages and costs an insert nothing.
CREATE INDEX events_by_seq ON events USING brin (event_seq) WITH (pages_per_range = 16, autosummarize = on);

-- How far each check has come.
CREATE TABLE repair_progress (
  what text PRIMARY KEY,
  position bigint NOT NULL
);

-- Deliveries that were open when they were looked at, until they end. `missing_at` is the `state_at`
-- of the row for which no message was found.
CREATE TABLE repair_watch (
  day date NOT NULL,
  delivery_id uuid NOT NULL,
  check_at timestamptz NOT NULL,
  missing_at timestamptz,
  PRIMARY KEY (day, delivery_id)
);

CREATE INDEX repair_watch_due ON repair_watch (check_at);
