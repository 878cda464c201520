-- name: tables
-- Which file each row of an archive is in. A copy of what the files say, with one transaction per
-- file; whatever is wrong with it is put right by making it anew.
CREATE TABLE IF NOT EXISTS files (
  number INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again
  path TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS places (
  trace_id TEXT PRIMARY KEY,
  file INTEGER NOT NULL,              -- if that is no longer in `files`, there is no such row
  experiment_id TEXT NOT NULL
) WITHOUT ROWID;

-- name: files
SELECT path FROM files;

-- name: forget_file
DELETE FROM files WHERE path = ?;

-- name: add_file
INSERT INTO files (path) VALUES (?);

-- name: put
INSERT OR REPLACE INTO places (trace_id, file, experiment_id) VALUES (?, ?, ?);

-- name: find
-- `:ids` is a JSON array, so that one prepared statement serves any number.
SELECT p.trace_id, f.path, p.experiment_id FROM places p JOIN files f ON f.number = p.file
WHERE p.trace_id IN (SELECT value FROM json_each(:ids));

-- name: after
SELECT p.trace_id FROM places p JOIN files f ON f.number = p.file
WHERE p.experiment_id = :experiment AND p.trace_id > :after ORDER BY p.trace_id LIMIT :count;

-- name: tidy
DELETE FROM places WHERE file NOT IN (SELECT number FROM files);
