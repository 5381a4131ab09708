-- What may be shown of a webhook's headers and credentials is computed when there is a value. Until
-- now that was the last four characters of everything from 12 characters on, passwords too; from now
-- on of what has 24 and is no password. How long a stored value is cannot be seen here, so every mask
-- becomes one that shows nothing, until the value is given again.
UPDATE webhooks
SET extras_shown = regexp_replace(
  extras_shown::text,
  '"(value|token|password|clientSecret)": "••••(?:[^"\\]|\\.)*"',
  '"\1": "••••"',
  'g'
)::jsonb
WHERE extras_shown <> '{}';
