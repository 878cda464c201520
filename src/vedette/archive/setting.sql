-- Plain SQL that SQLite, Postgres and MySQL know.

-- name: archival
SELECT experiment_id, value FROM experiment_tags WHERE experiment_tags.key = :tag
ORDER BY experiment_id;
