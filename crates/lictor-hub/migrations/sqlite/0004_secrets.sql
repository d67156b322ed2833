-- Secrets: ciphertext of each version, newest first to find; a removed one keeps the number of its newest version.

CREATE TABLE secrets (
    org         TEXT    NOT NULL REFERENCES orgs (org),
    name        TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    digest      BLOB    NOT NULL,
    operator    TEXT    NOT NULL,
    nodes       INTEGER NOT NULL,
    issued_at   INTEGER NOT NULL,
    wire        TEXT    NOT NULL,
    PRIMARY KEY (org, name, version)
);
CREATE INDEX secrets_digest ON secrets (org, digest);
