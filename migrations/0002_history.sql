-- History: events, the deliveries they made, every attempt, and counters.
--
-- Partitioned by UTC day, so that retention drops tables instead of deleting rows. A delivery's id
-- carries its millisecond, so an id alone finds its partition. Rows of a day without a partition
-- land in the default one and move when the day gets its own.
--
-- How rows are stored. Partitions get their storage parameters when they are made (a partitioned
-- table can have none); the reasons are these:
--   * What compresses is compressed by the program (LZ4, `body_codec`), and those columns are
--     EXTERNAL: PostgreSQL does not try again with a slower algorithm.
--   * toast_tuple_target = 8160 keeps rows of up to 8 kB in their page. The default would move what
--     makes a row longer than 2 kB to the TOAST table: two more tuples and an index entry per
--     row, for rows that are written once and seldom read.
--   * Deliveries are updated in place: no index has a column that changes, so with room in the page
--     an update writes no index (HOT). Nearly every delivery is updated once, seconds after it was
--     made, so a page is filled to 45 % and its rows' next versions take the rest: no larger in the
--     end, and measured with less than half the WAL of the update. The changing columns stand
--     together, behind the fixed ones and before the snapshot, so that the log need only hold what
--     differs.
--   * Events and attempts never change and fill their pages.

CREATE TABLE events (
  day date NOT NULL,
  workspace_id uuid NOT NULL,
  event_id text NOT NULL,
  link_id uuid,
  accepted_at timestamptz NOT NULL,
  event_timestamp timestamptz NOT NULL,
  event_seq bigint NOT NULL,
  renderer_version int NOT NULL,
  lbid text NOT NULL,
  event_type text NOT NULL,
  step_kind text NOT NULL,
  event_action text NOT NULL,
  -- 0 plain, 1 LZ4 block behind its length.
  body_codec smallint NOT NULL,
  -- The sanitised event in each profile, once for all its deliveries.
  renditions bytea,
  PRIMARY KEY (day, workspace_id, event_id)
) PARTITION BY RANGE (day);

ALTER TABLE events ALTER renditions SET STORAGE EXTERNAL;

CREATE TABLE events_default PARTITION OF events DEFAULT;

CREATE TABLE deliveries (
  day date NOT NULL,
  rendition int,
  id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  webhook_id uuid NOT NULL,
  link_id uuid,
  created_at timestamptz NOT NULL,
  event_seq bigint NOT NULL,
  event_id text NOT NULL,
  event_type text NOT NULL,
  lbid text NOT NULL,
  trigger text NOT NULL CHECK (trigger IN ('EVENT', 'REPLAY', 'TEST')),

  -- What follows changes; see the program's rules for merging accounts.
  state text NOT NULL,
  -- Time of the account that `state` comes from, and its attempts if it ended (0 while open).
  state_attempts int NOT NULL DEFAULT 0,
  attempt_count int NOT NULL DEFAULT 0,
  state_at timestamptz NOT NULL,
  next_attempt_at timestamptz,
  completed_at timestamptz,
  -- The attempt whose result is shown.
  last_attempt_at timestamptz,
  last_status_code int,
  last_error_class text CHECK (last_error_class IN ('TEMPORARY', 'PERMANENT', 'OURS')),
  last_error_reason text,

  -- The rendered `webhook` object; null until the verdict has come.
  snapshot bytea,

  PRIMARY KEY (day, id),
  CONSTRAINT state_is_known CHECK
    (state IN ('PENDING', 'RETRYING', 'HELD', 'DELIVERED', 'FAILED', 'CANCELLED')),
  CONSTRAINT what_ended_has_an_end CHECK
    ((state IN ('DELIVERED', 'FAILED', 'CANCELLED')) = (completed_at IS NOT NULL)),
  CONSTRAINT what_ended_has_no_next CHECK (completed_at IS NULL OR next_attempt_at IS NULL),
  CONSTRAINT an_error_is_whole CHECK ((last_error_class IS NULL) = (last_error_reason IS NULL)),
  CONSTRAINT a_snapshot_has_its_rendition CHECK ((snapshot IS NULL) = (rendition IS NULL))
) PARTITION BY RANGE (day);

ALTER TABLE deliveries ALTER snapshot SET STORAGE EXTERNAL;

-- The log of one webhook, newest first (read backwards). All ascending, so that a page can begin
-- with a row comparison.
CREATE INDEX deliveries_by_webhook ON deliveries (workspace_id, webhook_id, day, created_at, id);

CREATE TABLE deliveries_default PARTITION OF deliveries DEFAULT;

CREATE TABLE attempts (
  day date NOT NULL,
  number int NOT NULL CHECK (number > 0),
  delivery_id uuid NOT NULL,
  execution_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  started_at timestamptz NOT NULL,
  status_code int,
  dns_us int,
  connect_us int,
  tls_us int,
  first_byte_us int,
  total_us int,
  body_codec smallint NOT NULL,
  response_body_truncated boolean NOT NULL,
  outcome text NOT NULL,
  class text CHECK (class IN ('TEMPORARY', 'PERMANENT', 'OURS')),
  error text NOT NULL,
  remote_ip text NOT NULL,
  dispatcher text NOT NULL,
  -- A line each, as on the wire.
  response_headers text NOT NULL,
  response_body bytea NOT NULL,
  PRIMARY KEY (day, delivery_id, number, execution_id)
) PARTITION BY RANGE (day);

ALTER TABLE attempts ALTER response_body SET STORAGE EXTERNAL;

CREATE TABLE attempts_default PARTITION OF attempts DEFAULT;

-- How many deliveries of a webhook and day are in each state: the exact totals of lists. Kept by
-- the transactions that change deliveries, a row per webhook and day and transaction.
CREATE TABLE delivery_counts (
  webhook_id uuid NOT NULL,
  day date NOT NULL,
  workspace_id uuid NOT NULL,
  pending bigint NOT NULL,
  retrying bigint NOT NULL,
  held bigint NOT NULL,
  delivered bigint NOT NULL,
  failed bigint NOT NULL,
  cancelled bigint NOT NULL,
  PRIMARY KEY (webhook_id, day)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- Totals of a webhook's life. No foreign key: reports outlive their webhook, and a deletion must
-- not wait for them. `changed_by` is the transaction that wrote last, for readers of changes.
CREATE TABLE webhook_stats (
  webhook_id uuid PRIMARY KEY,
  success_count bigint NOT NULL,
  failure_count bigint NOT NULL,
  last_sent_at timestamptz,
  last_delivered_at timestamptz,
  changed_by xid8 NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
