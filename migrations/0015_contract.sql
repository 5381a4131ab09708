-- Which signing key a rotation made, so that whoever takes its idempotency key over after a crash
-- shows that one, and not a later rotation's.
ALTER TABLE idempotency_keys ADD COLUMN subject_version int;

-- How often the read model had to be told of a webhook without a change of its configuration: the
-- revision that customers see stays, and the read model takes the sum of both.
ALTER TABLE webhooks ADD COLUMN told bigint NOT NULL DEFAULT 0;

-- Accepted events of a workspace and day, kept like `delivery_counts` by the transactions that store
-- them: counting millions of rows for a graph of a month is no answer.
CREATE TABLE event_counts (
  workspace_id uuid NOT NULL,
  day date NOT NULL,
  events bigint NOT NULL,
  PRIMARY KEY (workspace_id, day)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- What there is already. Samples have no place on the stream of events, and are none.
INSERT INTO event_counts (workspace_id, day, events)
SELECT workspace_id, day, count(*) FROM events WHERE event_seq > 0 GROUP BY workspace_id, day;

