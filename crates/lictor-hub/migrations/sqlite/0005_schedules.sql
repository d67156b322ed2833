-- Schedules are jobs that stand, and what nodes fire of one is listed by it: '' for a job of its own, 'schedule' for a
-- schedule, and the schedule's id for one firing.

ALTER TABLE jobs ADD COLUMN origin TEXT NOT NULL DEFAULT '';
CREATE INDEX jobs_origin ON jobs (org, origin, created_at) WHERE origin <> '';
