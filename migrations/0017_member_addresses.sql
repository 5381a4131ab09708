-- Where a webhook's creator can be told of its trouble, when its workspace names nobody: a token knows its
-- member's address, and a webhook keeps the one of the token that made it. Only additions, so that the
-- release before runs on it. Null: not known.

ALTER TABLE tokens
  ADD COLUMN member_email text
    CONSTRAINT member_email_is_short CHECK (octet_length(member_email) BETWEEN 1 AND 254);

ALTER TABLE webhooks
  ADD COLUMN created_by_email text
    CONSTRAINT created_by_email_is_short CHECK (octet_length(created_by_email) BETWEEN 1 AND 254);
