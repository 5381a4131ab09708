-- What people read of deliveries, and what reading costs those who write.

-- Why a delivery is in its state where no attempt tells (`hold_expired`, `webhook_disabled`, …).
ALTER TABLE deliveries ADD COLUMN state_reason text;

-- The deliveries that an event made were made at the moment it was accepted, so event and journey
-- lead to them through the table of events and the order of time: two indexes in random order less
-- for every delivery, one more for every event. What people asked for (replays, tests) was made
-- later; of that there is little, and it keeps indexes of its own.
CREATE INDEX events_by_lbid ON events (workspace_id, lbid);
CREATE INDEX deliveries_asked_by_event ON deliveries (workspace_id, event_id)
  WHERE trigger <> 'EVENT';
CREATE INDEX deliveries_asked_by_lbid ON deliveries (workspace_id, lbid) WHERE trigger <> 'EVENT';
DROP INDEX deliveries_by_event;
DROP INDEX deliveries_by_lbid;
