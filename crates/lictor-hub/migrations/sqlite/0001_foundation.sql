-- Every row carries its org. Times are milliseconds since 1970 (UTC); digests are 32 raw bytes.

CREATE TABLE orgs (
    org         TEXT    NOT NULL PRIMARY KEY,
    name        TEXT    NOT NULL,
    created_at  INTEGER NOT NULL
);

CREATE TABLE trust_documents (
    org         TEXT    NOT NULL REFERENCES orgs (org),
    kind        TEXT    NOT NULL,
    digest      BLOB    NOT NULL,
    version     INTEGER NOT NULL,
    wire        TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (org, kind, digest)
);

CREATE TABLE grants (
    org         TEXT    NOT NULL REFERENCES orgs (org),
    digest      BLOB    NOT NULL,
    max_uses    INTEGER NOT NULL,
    wire        TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (org, digest)
);

CREATE TABLE nodes (
    org          TEXT    NOT NULL REFERENCES orgs (org),
    node_id      TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    kind         TEXT    NOT NULL,
    grant_digest BLOB    NOT NULL,
    link_spki    BLOB    NOT NULL,
    record       TEXT    NOT NULL,
    enrolled_at  INTEGER NOT NULL,
    last_seen_at INTEGER,
    heartbeat    TEXT,
    PRIMARY KEY (org, node_id),
    FOREIGN KEY (org, grant_digest) REFERENCES grants (org, digest)
);
CREATE UNIQUE INDEX nodes_link ON nodes (link_spki);
CREATE INDEX nodes_name ON nodes (org, name);
CREATE INDEX nodes_grant ON nodes (org, grant_digest);

CREATE TABLE jobs (
    org         TEXT    NOT NULL REFERENCES orgs (org),
    job_id      TEXT    NOT NULL,
    digest      BLOB    NOT NULL,
    operator    TEXT    NOT NULL,
    profile     TEXT    NOT NULL,
    expires_at  INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    envelope    TEXT    NOT NULL,
    PRIMARY KEY (org, job_id)
);
CREATE INDEX jobs_newest ON jobs (org, created_at, job_id);

CREATE TABLE executions (
    org              TEXT    NOT NULL,
    job_id           TEXT    NOT NULL,
    node_id          TEXT    NOT NULL,
    state            TEXT    NOT NULL,
    code             TEXT,
    message          TEXT    NOT NULL,
    started_at       INTEGER,
    finished_at      INTEGER,
    lease_expires_at INTEGER,
    job_expires_at   INTEGER NOT NULL,
    receipt          BLOB,
    PRIMARY KEY (org, job_id, node_id),
    FOREIGN KEY (org, job_id) REFERENCES jobs (org, job_id)
);
CREATE INDEX executions_node ON executions (org, node_id, state);
CREATE INDEX executions_lease ON executions (lease_expires_at) WHERE lease_expires_at IS NOT NULL;
CREATE INDEX executions_waiting ON executions (job_expires_at) WHERE state IN ('queued', 'awaiting_approval');

CREATE TABLE documents (
    org         TEXT    NOT NULL,
    job_id      TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    digest      BLOB    NOT NULL,
    node_id     TEXT,
    wire        TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (org, job_id, kind, digest),
    FOREIGN KEY (org, job_id) REFERENCES jobs (org, job_id)
);

CREATE TABLE segments (
    org         TEXT    NOT NULL,
    job_id      TEXT    NOT NULL,
    node_id     TEXT    NOT NULL,
    from_pos    INTEGER NOT NULL,
    to_pos      INTEGER NOT NULL,
    stdout_at   INTEGER NOT NULL,
    stderr_at   INTEGER NOT NULL,
    inline      BLOB,
    object      TEXT,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (org, job_id, node_id, from_pos)
);

CREATE TABLE blobs (
    org         TEXT    NOT NULL REFERENCES orgs (org),
    sha256      BLOB    NOT NULL,
    size        INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (org, sha256)
);

CREATE TABLE tokens (
    token_id     TEXT    NOT NULL PRIMARY KEY,
    org          TEXT    NOT NULL REFERENCES orgs (org),
    label        TEXT    NOT NULL,
    scope        TEXT    NOT NULL,
    secret_hash  BLOB    NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER
);
CREATE INDEX tokens_org ON tokens (org);

-- `log` is an org id, or `hub` for what belongs to no org.
CREATE TABLE audit (
    log         TEXT    NOT NULL,
    seq         INTEGER NOT NULL,
    line        TEXT    NOT NULL,
    PRIMARY KEY (log, seq)
);
