-- The audit log is append-only, whoever asks. The running service's role has no right to change or
-- delete its rows (`webhooks migrate --app-role`); these triggers hold where one role does everything,
-- and against a statement of ours that should not be there. Only who owns the table can lift them.
CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_log_is_never_changed BEFORE UPDATE OR DELETE ON audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only();

CREATE TRIGGER audit_log_is_never_emptied BEFORE TRUNCATE ON audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only();

-- How many secrets are sealed with which key, for whoever seals them anew.
CREATE INDEX webhook_secrets_by_key ON webhook_secrets (key_id);
