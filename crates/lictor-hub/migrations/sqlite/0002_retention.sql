-- How long standard input is kept, what is open, and results that were refused.

ALTER TABLE blobs ADD COLUMN keep_until INTEGER NOT NULL DEFAULT 0;
UPDATE blobs SET keep_until = created_at + 2592000000;
CREATE INDEX blobs_keep ON blobs (keep_until);

CREATE INDEX executions_open ON executions (org, node_id, state)
    WHERE state IN ('queued', 'awaiting_approval', 'leased', 'running');

CREATE INDEX segments_age ON segments (created_at);
CREATE INDEX jobs_age ON jobs (created_at);

CREATE TABLE quarantine (
    org         TEXT    NOT NULL REFERENCES orgs (org),
    job_id      TEXT    NOT NULL,
    node_id     TEXT    NOT NULL,
    digest      BLOB    NOT NULL,
    code        TEXT    NOT NULL,
    receipt     TEXT    NOT NULL,
    envelope    TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (org, job_id, node_id, digest)
);
CREATE INDEX quarantine_age ON quarantine (created_at);
