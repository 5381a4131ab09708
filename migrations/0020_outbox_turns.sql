-- The outbox is told in turns, a few rows of each workspace at a time: a bulk change of one must not
-- hold up the changes of others.
CREATE INDEX outbox_by_workspace ON outbox (workspace_id, id);
