-- Limits: how many jobs of each org are stored, counted as they come and go, and how often a token may ask.

CREATE TABLE job_counts (
    org         TEXT    NOT NULL PRIMARY KEY,
    jobs        INTEGER NOT NULL
);
INSERT INTO job_counts (org, jobs) SELECT org, COUNT(*) FROM jobs GROUP BY org;
CREATE TRIGGER jobs_counted AFTER INSERT ON jobs BEGIN
    INSERT INTO job_counts (org, jobs) VALUES (NEW.org, 1) ON CONFLICT (org) DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER jobs_uncounted AFTER DELETE ON jobs BEGIN
    UPDATE job_counts SET jobs = jobs - 1 WHERE org = OLD.org;
END;

ALTER TABLE tokens ADD COLUMN requests_per_second INTEGER;

-- Notifications: who is told of what, what waits to be told, and what was told.
CREATE TABLE notify_targets (
    target_id    TEXT    NOT NULL PRIMARY KEY,
    org          TEXT    NOT NULL REFERENCES orgs (org),
    way          TEXT    NOT NULL,
    address      TEXT    NOT NULL,
    secret       BLOB    NOT NULL,
    kinds        TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    delivered_at INTEGER,
    last_error   TEXT
);
CREATE INDEX notify_targets_org ON notify_targets (org);

CREATE TABLE notify_outbox (
    id          TEXT    NOT NULL PRIMARY KEY,
    target_id   TEXT    NOT NULL REFERENCES notify_targets (target_id) ON DELETE CASCADE,
    org         TEXT    NOT NULL,
    event       TEXT    NOT NULL,
    body        TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    next_at     INTEGER NOT NULL,
    tries       INTEGER NOT NULL
);
CREATE INDEX notify_outbox_due ON notify_outbox (next_at);
CREATE INDEX notify_outbox_target ON notify_outbox (target_id, created_at);

CREATE TABLE notify_said (
    org         TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (org, key)
);
CREATE INDEX notify_said_age ON notify_said (at);
