-- Jobs that are spread over their nodes, and executions that wait at the hub for their batch.

CREATE TABLE rollouts (
    org         TEXT    NOT NULL,
    job_id      TEXT    NOT NULL,
    plan        TEXT    NOT NULL,
    state       TEXT    NOT NULL,
    batch       INTEGER NOT NULL,
    forgiven    INTEGER NOT NULL,
    resumes_at  INTEGER,
    message     TEXT    NOT NULL,
    PRIMARY KEY (org, job_id),
    FOREIGN KEY (org, job_id) REFERENCES jobs (org, job_id)
);
CREATE INDEX rollouts_open ON rollouts (org, job_id) WHERE state IN ('running', 'pausing');

DROP INDEX executions_waiting;
CREATE INDEX executions_waiting ON executions (job_expires_at)
    WHERE state IN ('queued', 'held', 'awaiting_approval', 'awaiting_release');
DROP INDEX executions_open;
CREATE INDEX executions_open ON executions (org, node_id, state)
    WHERE state IN ('queued', 'held', 'awaiting_approval', 'awaiting_release', 'leased', 'running');
