-- How far the read model and the lake are with each journal.

-- name: position
SELECT segment, offset FROM positions WHERE journal = :journal;

-- name: lake_segment
SELECT lake_segment FROM positions WHERE journal = :journal;

-- name: advance
INSERT INTO positions (journal, segment, offset) VALUES (:journal, :segment, :offset)
ON CONFLICT DO UPDATE SET segment = excluded.segment, offset = excluded.offset;

-- name: advance_lake
INSERT INTO positions (journal, segment, offset, lake_segment) VALUES (:journal, 0, 0, :segment)
ON CONFLICT DO UPDATE SET lake_segment = max(lake_segment, excluded.lake_segment);

-- name: make_durable
-- Something must be written for a commit to be synced.
INSERT INTO counters (name, value) VALUES ('durable', 1)
ON CONFLICT DO UPDATE SET value = value + 1;
