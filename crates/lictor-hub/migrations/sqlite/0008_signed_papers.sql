-- Notifications: how often a target has failed, and when it is tried again, is its own and not each message's, so that what
-- is new neither overtakes what waits nor has a dead target tried again.
DROP INDEX notify_outbox_due;
ALTER TABLE notify_outbox DROP COLUMN next_at;
ALTER TABLE notify_outbox DROP COLUMN tries;
ALTER TABLE notify_targets ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE notify_targets ADD COLUMN next_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE notify_targets ADD COLUMN tested_at INTEGER;

-- Signed documents about jobs: who signed each and when, so that no person's crowd out another's.
ALTER TABLE documents ADD COLUMN signer TEXT;
ALTER TABLE documents ADD COLUMN issued_at INTEGER;

-- Uploads into a bucket that have begun: what a kill leaves of them is aborted at the next start.
CREATE TABLE uploads (
    path        TEXT    NOT NULL,
    upload_id   TEXT    NOT NULL,
    PRIMARY KEY (path, upload_id)
);
