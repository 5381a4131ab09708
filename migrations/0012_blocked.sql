-- Which failing delivery of its key a delivery waits for, where its webhook wants an order.
--
-- Set by a dispatcher's report and taken away by the next one, like `next_attempt_at`. A release that
-- does not know the column leaves it in rows that end, so it means something in open rows only. No
-- index: a search for what is blocked walks the log of its webhook like one for a state, and an index
-- on a column that changes would cost every delivery its in-place update.
ALTER TABLE deliveries ADD COLUMN waits_for uuid;
