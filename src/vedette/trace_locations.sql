-- Plain SQL that SQLite, Postgres and MySQL know.

-- name: locations
-- Also of experiments that were deleted: their traces are still there.
SELECT experiment_id, value FROM experiment_tags WHERE key = :tag;
