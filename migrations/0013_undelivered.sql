-- What people search for is what did not arrive: a small part of the history, found without reading
-- the rest. A delivery that arrives at its first attempt is never in these indexes; one that waits,
-- fails or is held costs an entry in each. They have with them what a search passes rows over for.

CREATE INDEX deliveries_undelivered ON deliveries (workspace_id, day, created_at, id)
  INCLUDE (state, last_error_class, last_status_code, link_id, trigger)
  WHERE state <> 'DELIVERED';
CREATE INDEX deliveries_undelivered_by_webhook ON deliveries (workspace_id, webhook_id, day, created_at, id)
  INCLUDE (state, last_error_class, last_status_code, link_id, trigger)
  WHERE state <> 'DELIVERED';
