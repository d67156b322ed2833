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
