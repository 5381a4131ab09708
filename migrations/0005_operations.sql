-- What people do with history: search it, send from it again, and watch it.
--
-- Indexes hold only columns that never change, so an update of a delivery still writes no index
-- (HOT). Searches by what does change (state, class, status) walk the order of time within a
-- limit. On a database that is already large each CREATE INDEX keeps that table's writers waiting;
-- reports are spooled meanwhile and nothing is lost.

-- The workspace's log, newest first.
CREATE INDEX deliveries_by_workspace ON deliveries (workspace_id, day, created_at, id);

-- A link's log, newest first.
CREATE INDEX deliveries_by_link ON deliveries (workspace_id, link_id, day, created_at, id);

-- What one event, or one journey, led to: few rows each.
CREATE INDEX deliveries_by_event ON deliveries (workspace_id, event_id);
CREATE INDEX deliveries_by_lbid ON deliveries (workspace_id, lbid);

-- The workspace's events, newest first.
CREATE INDEX events_by_workspace ON events (workspace_id, day, accepted_at, event_seq);

CREATE INDEX delivery_counts_by_workspace ON delivery_counts (workspace_id, day);

-- A replay is made on another day than its event: then `event_day` says where the event is. Null =
-- on the delivery's own day.
ALTER TABLE deliveries ADD COLUMN event_day date, ADD COLUMN replay_of uuid;

-- Deliveries that a person asked for and that JetStream has yet to hear of. Written together with
-- the delivery, removed after the acknowledgement of its message.
CREATE TABLE delivery_outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  day date NOT NULL,
  delivery_id uuid NOT NULL,
  created_at timestamptz NOT NULL
);

-- Bulk replays. A step reads on from the cursor, makes deliveries and moves the cursor in one
-- transaction, so a crash repeats nothing and skips nothing.
CREATE TABLE jobs (
  id uuid PRIMARY KEY,
  workspace_id uuid NOT NULL REFERENCES workspaces,
  -- No foreign key: the record of a job outlives its webhook.
  webhook_id uuid NOT NULL,
  type text NOT NULL CHECK (type IN ('RECOVER_FAILED', 'REPLAY_MISSING', 'REPLAY')),
  state text NOT NULL
    CHECK (state IN ('PENDING', 'RUNNING', 'PAUSED', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
  since timestamptz NOT NULL,
  until timestamptz NOT NULL,
  filter jsonb NOT NULL,
  dry_run boolean NOT NULL,
  rate_per_second int NOT NULL CHECK (rate_per_second BETWEEN 1 AND 1000),
  -- The last row looked at.
  cursor_at timestamptz,
  cursor_id text,
  examined bigint NOT NULL DEFAULT 0,
  matched bigint NOT NULL DEFAULT 0,
  replayed bigint NOT NULL DEFAULT 0,
  skipped bigint NOT NULL DEFAULT 0,
  error text,
  created_by text NOT NULL,
  created_at timestamptz NOT NULL,
  started_at timestamptz,
  finished_at timestamptz,
  -- The rate: the next step is not before this.
  next_step_at timestamptz NOT NULL,
  CONSTRAINT a_range_has_a_length CHECK (since < until),
  CONSTRAINT a_cursor_is_whole CHECK ((cursor_at IS NULL) = (cursor_id IS NULL)),
  CONSTRAINT what_ended_has_an_end
    CHECK ((state IN ('SUCCEEDED', 'FAILED', 'CANCELLED')) = (finished_at IS NOT NULL))
);

CREATE INDEX jobs_by_webhook ON jobs (workspace_id, webhook_id, created_at, id);
CREATE INDEX jobs_open ON jobs (next_step_at) WHERE state IN ('PENDING', 'RUNNING');

-- How many tests a workspace has sent since `window_start`.
CREATE TABLE test_sends (
  workspace_id uuid PRIMARY KEY REFERENCES workspaces,
  window_start timestamptz NOT NULL,
  used int NOT NULL
);
