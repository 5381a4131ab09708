-- Why a webhook did not fire is judged by its configuration as it was when the event was accepted, and
-- that stands in the audit log: every change writes what was before, in its own transaction. These find
-- it: the first entry about a webhook after a moment, and the webhooks that were deleted after one.

CREATE INDEX audit_log_by_webhook ON audit_log (workspace_id, subject, at, id)
  WHERE action LIKE 'webhook.%';

CREATE INDEX audit_log_of_deletions ON audit_log (workspace_id, at, id)
  WHERE action = 'webhook.delete';
