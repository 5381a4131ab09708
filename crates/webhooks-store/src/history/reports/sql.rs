//! The statements of a batch of reports.

/// An execution is stored once and never changes. One that exists is left alone.
pub(super) const PUT_ATTEMPTS: &str = "
INSERT INTO attempts (day, delivery_id, number, execution_id, workspace_id, started_at, outcome,
  class, status_code, dns_us, connect_us, tls_us, first_byte_us, total_us, response_headers,
  body_codec, response_body, response_body_truncated, error, remote_ip, dispatcher)
SELECT * FROM unnest($1::date[], $2::uuid[], $3::int[], $4::uuid[], $5::uuid[], $6::timestamptz[],
  $7::text[], $8::text[], $9::int[], $10::int[], $11::int[], $12::int[], $13::int[], $14::int[],
  $15::text[], $16::smallint[], $17::bytea[], $18::bool[], $19::text[], $20::text[], $21::text[])
ON CONFLICT (day, delivery_id, number, execution_id) DO NOTHING";

/// Makes what is new and locks what is there. `DO UPDATE … WHERE false` takes the row's lock and
/// writes nothing; `DO NOTHING` would not lock, and a `SELECT … FOR UPDATE` before or after would
/// take locks in a second order. Only new rows are returned.
pub(super) const MAKE_OR_LOCK: &str = "
INSERT INTO deliveries AS d (day, id, workspace_id, webhook_id, event_id, event_type, link_id, lbid,
  trigger, created_at, event_seq, state, state_attempts, state_at, next_attempt_at, completed_at,
  attempt_count, last_attempt_at, last_status_code, last_error_class, last_error_reason,
  state_reason, waits_for, snapshot, rendition)
SELECT * FROM unnest($1::date[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[],
  $7::uuid[], $8::text[], $9::text[], $10::timestamptz[], $11::bigint[], $12::text[], $13::int[],
  $14::timestamptz[], $15::timestamptz[], $16::timestamptz[], $17::int[], $18::timestamptz[],
  $19::int[], $20::text[], $21::text[], $22::text[], $23::uuid[],
  $24::bytea[], $25::int[])
ON CONFLICT (day, id) DO UPDATE SET state = d.state WHERE false
RETURNING id";

pub(super) const READ: &str = "
SELECT id, state, state_attempts, state_at, next_attempt_at, attempt_count, last_attempt_at,
  last_status_code, last_error_class, last_error_reason, state_reason, waits_for
FROM deliveries WHERE day = $1 AND id = ANY($2)";

/// `d.id = ANY($2)` says nothing that `d.id = u.id` does not say. It is there for the planner: with the
/// statistics of a young partition it would rather read the whole day and merge; so the rows are
/// looked up by their keys whatever it thinks.
pub(super) const UPDATE: &str = "
UPDATE deliveries d SET state = u.state, state_attempts = u.state_attempts, state_at = u.state_at,
  next_attempt_at = u.next_attempt_at, completed_at = u.completed_at,
  attempt_count = u.attempt_count, last_attempt_at = u.last_attempt_at,
  last_status_code = u.last_status_code, last_error_class = u.last_error_class,
  last_error_reason = u.last_error_reason, state_reason = u.state_reason,
  waits_for = u.waits_for
FROM unnest($2::uuid[], $3::text[], $4::int[], $5::timestamptz[], $6::timestamptz[],
  $7::timestamptz[], $8::int[], $9::timestamptz[], $10::int[], $11::text[], $12::text[],
  $13::text[], $14::uuid[])
  u(id, state, state_attempts, state_at, next_attempt_at, completed_at, attempt_count,
    last_attempt_at, last_status_code, last_error_class, last_error_reason, state_reason, waits_for)
WHERE d.day = $1 AND d.id = ANY($2) AND d.id = u.id";
