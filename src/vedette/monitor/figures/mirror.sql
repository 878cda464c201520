-- What the pages ask of the columnar mirror (DuckDB), see vedette/traces/columns.sql.
-- A period is [since, until), the one it is compared with [previous_since, previous_until).

-- name: traffic
-- Both periods: counts, sums and percentiles of all their traces.
SELECT timestamp_ms >= $since AS after, count(*), count(*) FILTER (status = 'ERROR'),
  count(execution_time_ms), quantile_disc(execution_time_ms, [0.5, 0.95, 0.99]),
  coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(total_tokens), 0),
  count(total_tokens), coalesce(sum(total_cost), 0), count(total_cost)
FROM traces
WHERE experiment_id = $experiment AND NOT of_evaluation
  AND timestamp_ms >= $previous_since AND timestamp_ms < $until
  AND (timestamp_ms >= $since OR timestamp_ms < $previous_until)
GROUP BY after;

-- name: traffic_sums
-- Both periods: what the intervals of error rate and percentiles need. %s: sums over sessions g with
-- n traces, of which m have a latency. Traces of no session are by themselves.
WITH chosen AS (
  SELECT timestamp_ms >= $since AS after, session, status = 'ERROR' AS failed, execution_time_ms AS ms
  FROM traces
  WHERE experiment_id = $experiment AND NOT of_evaluation
    AND timestamp_ms >= $previous_since AND timestamp_ms < $until
    AND (timestamp_ms >= $since OR timestamp_ms < $previous_until)
), limited AS (
  SELECT *, ms <= if(after, $p50, $previous_p50) AS u50, ms <= if(after, $p95, $previous_p95) AS u95,
    ms <= if(after, $p99, $previous_p99) AS u99
  FROM chosen
), g AS (
  SELECT after, session IS NOT NULL AS is_session, count(*)::DOUBLE AS n,
    count(*) FILTER (failed)::DOUBLE AS e, count(ms)::DOUBLE AS m,
    count(*) FILTER (u50)::DOUBLE AS u50, count(*) FILTER (u95)::DOUBLE AS u95,
    count(*) FILTER (u99)::DOUBLE AS u99
  FROM limited WHERE session IS NOT NULL GROUP BY after, session
  UNION ALL
  SELECT after, false, 1.0, failed::DOUBLE, (ms IS NOT NULL)::DOUBLE, coalesce(u50, false)::DOUBLE,
    coalesce(u95, false)::DOUBLE, coalesce(u99, false)::DOUBLE
  FROM limited WHERE session IS NULL
)
SELECT after, count(*) FILTER (is_session), %s FROM g GROUP BY after;

-- name: percentile_bounds
-- Both periods: the latencies at these shares of the traces. %s: those of the period, of the other.
SELECT quantile_disc(execution_time_ms, %s) FILTER (timestamp_ms >= $since),
  quantile_disc(execution_time_ms, %s) FILTER (timestamp_ms < $since)
FROM traces
WHERE experiment_id = $experiment AND NOT of_evaluation
  AND timestamp_ms >= $previous_since AND timestamp_ms < $until
  AND (timestamp_ms >= $since OR timestamp_ms < $previous_until);

-- name: traffic_series
SELECT timestamp_ms - timestamp_ms % $bucket AS bucket, count(*), count(*) FILTER (status = 'ERROR'),
  quantile_disc(execution_time_ms, [0.5, 0.95, 0.99]), coalesce(sum(input_tokens), 0),
  coalesce(sum(output_tokens), 0), coalesce(sum(total_cost), 0)
FROM traces
WHERE experiment_id = $experiment AND NOT of_evaluation
  AND timestamp_ms >= $since AND timestamp_ms < $until
GROUP BY bucket ORDER BY bucket;

-- name: score_kinds
-- Both periods: which scores there are, by scorer and name.
SELECT scorer, name, trace_timestamp_ms >= $since AS after, count(*), count(value),
  bool_and(kind = 'boolean') FILTER (value IS NOT NULL), min(value), max(value),
  mode(label), list_sort(list(DISTINCT version))
FROM scores
WHERE experiment_id = $experiment
  AND trace_timestamp_ms >= $previous_since AND trace_timestamp_ms < $until
  AND (trace_timestamp_ms >= $since OR trace_timestamp_ms < $previous_until)
GROUP BY scorer, name, after ORDER BY scorer, name, after;

-- name: score_sums
-- Both periods, side by side: a session may lie in both. `labels`: the label whose share is wanted,
-- of those that give labels only. %s: sums over sessions (a: of the period, b: of the one before).
WITH chosen AS (
  SELECT s.scorer, s.name, s.trace_timestamp_ms >= $since AS after, s.session,
    1 / s.inclusion_probability AS w,
    if(l.label IS NULL, s.value, (s.label = l.label)::DOUBLE) AS y
  FROM scores s LEFT JOIN labels l ON l.scorer = s.scorer AND l.name = s.name
  WHERE s.experiment_id = $experiment
    AND s.trace_timestamp_ms >= $previous_since AND s.trace_timestamp_ms < $until
    AND (s.trace_timestamp_ms >= $since OR s.trace_timestamp_ms < $previous_until)
), g AS (
  SELECT scorer, name, count(*) FILTER (after) AS na, sum(w) FILTER (after) AS wa,
    sum(w * y) FILTER (after) AS ta, sum(w * w) FILTER (after) AS qa,
    count(*) FILTER (NOT after) AS nb, sum(w) FILTER (NOT after) AS wb,
    sum(w * y) FILTER (NOT after) AS tb, sum(w * w) FILTER (NOT after) AS qb
  FROM chosen WHERE y IS NOT NULL AND session IS NOT NULL GROUP BY scorer, name, session
  UNION ALL
  SELECT scorer, name, after::BIGINT, if(after, w, NULL), if(after, w * y, NULL),
    if(after, w * w, NULL), (NOT after)::BIGINT, if(after, NULL, w), if(after, NULL, w * y),
    if(after, NULL, w * w)
  FROM chosen WHERE y IS NOT NULL AND session IS NULL
)
SELECT scorer, name, %s FROM g GROUP BY scorer, name;

-- name: score_series
-- By the bucket and the version of the scorer. %s: sums over sessions.
WITH chosen AS (
  SELECT trace_timestamp_ms - trace_timestamp_ms % $bucket AS bucket, version, session,
    1 / inclusion_probability AS w,
    if($label IS NULL, value, (label = $label)::DOUBLE) AS y
  FROM scores
  WHERE experiment_id = $experiment AND scorer = $scorer AND name = $name
    AND trace_timestamp_ms >= $since AND trace_timestamp_ms < $until
), g AS (
  SELECT bucket, version, count(*) AS na, sum(w) AS wa, sum(w * y) AS ta, sum(w * w) AS qa
  FROM chosen WHERE y IS NOT NULL AND session IS NOT NULL GROUP BY bucket, version, session
  UNION ALL
  SELECT bucket, version, 1, w, w * y, w * w FROM chosen WHERE y IS NOT NULL AND session IS NULL
)
SELECT bucket, version, %s FROM g GROUP BY bucket, version ORDER BY bucket, version;

-- name: newest_scores
SELECT name, value, label, 1 / inclusion_probability, session, milliseconds
FROM scores
WHERE experiment_id = $experiment AND scorer = $scorer
  AND trace_timestamp_ms >= $since AND trace_timestamp_ms < $until
ORDER BY trace_timestamp_ms DESC LIMIT $most;

-- name: lowest_scores
-- Of numbers the lowest, newest first; failures only, where scores pass or fail.
SELECT trace, value FROM scores
WHERE experiment_id = $experiment AND scorer = $scorer AND name = $name
  AND trace_timestamp_ms >= $since AND trace_timestamp_ms < $until
  AND value IS NOT NULL AND (kind = 'number' OR value = 0)
ORDER BY value, trace_timestamp_ms DESC LIMIT $most;
