-- An endpoint shows that it belongs to who holds its webhook's secret before anything is delivered to
-- it, where an operator asks for that. Only additions, each with a default, so that the release before
-- runs on it (which knows of no verification: switch it on when every process is of this release).

ALTER TABLE workspaces
  ADD COLUMN endpoint_verification boolean NOT NULL DEFAULT false,
  -- Hosts (`hooks.zapier.com`, `*.make.com`) whose endpoints need not show anything.
  ADD COLUMN verification_exempt_hosts text[] NOT NULL DEFAULT '{}'
    CONSTRAINT few_exempt_hosts CHECK (cardinality(verification_exempt_hosts) <= 32);

-- SHA-256 of the URL that was shown to belong to the webhook's owner. It says nothing of another URL,
-- so a change of the URL needs no change here.
ALTER TABLE webhooks
  ADD COLUMN verified_endpoint bytea
    CONSTRAINT verified_endpoint_is_a_hash CHECK (octet_length(verified_endpoint) = 32);
