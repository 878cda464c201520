-- Rows of the lake's tables for an hour of traffic: $traces traces from number $first on, which begin
-- evenly over the hour after $at (microseconds since the epoch). Columns that are left out are NULL.

-- name: mlflow_otel_spans
SELECT
  printf('%011x-%s-%016x', at // 1000, 'bench', trace * 3 + span) AS record_id,
  make_timestamptz(at) AS time,
  make_timestamptz(at) AS received_at,
  make_timestamptz(at)::DATE AS date,
  make_timestamptz(at)::DATE AS arrival_date,
  md5(trace::VARCHAR) AS trace_id,
  printf('%016x', span) AS span_id,
  CASE WHEN span > 0 THEN printf('%016x', 0) END AS parent_span_id,
  ['agent', 'search', 'chat'][span + 1] AS name,
  'SPAN_KIND_INTERNAL' AS kind,
  at * 1000 AS start_time_unix_nano,
  at * 1000 + (200 + hash(trace, span) % 2000)::BIGINT * 1000000 AS end_time_unix_nano,
  json_object(
    'mlflow.spanInputs', json_object('question', 'Where is my order ' || trace || '?'),
    'mlflow.spanOutputs', repeat('It is on its way. ', 10),
    'mlflow.chat.tokenUsage', json_object('input_tokens', trace % 900, 'output_tokens', trace % 300),
    'user.segment', CASE WHEN trace % 5 = 0 THEN 'paying' ELSE 'free' END
  )::VARCHAR AS attributes,
  {
    'message': '',
    'code': CASE WHEN hash(trace, span) % 50 = 0 THEN 'STATUS_CODE_ERROR' ELSE 'STATUS_CODE_OK' END
  } AS status,
  {
    'attributes': json_object('service.version', '1.' || at // 86400000000 % 10)::VARCHAR,
    'dropped_attributes_count': 0
  } AS resource,
  '1' AS experiment_id,
  ['AGENT', 'TOOL', 'CHAT_MODEL'][span + 1] AS span_type,
  CASE WHEN span = 2 THEN 'small-' || trace % 3 END AS model_name,
  CASE WHEN span = 2 THEN 'openai' END AS model_provider,
  CASE WHEN span = 2 THEN 0.0001 END AS total_cost
FROM (
  SELECT
    trace,
    span,
    $at + (trace - $first) * 3600000000 // $traces AS at
  FROM range($first, $first + $traces) AS traces (trace), range(3) AS spans (span)
);

-- name: mlflow_otel_annotations
SELECT
  md5('a' || trace || scorer) || md5('b' || trace || scorer) AS annotation_id,
  'TRACE' AS target_type,
  md5(trace::VARCHAR) AS target_id,
  CASE scorer WHEN 5 THEN 'TAG' ELSE 'FEEDBACK' END AS annotation_type,
  ['safety', 'polite', 'relevant', 'grade', 'user_feedback', 'channel'][scorer + 1] AS name,
  CASE scorer
    WHEN 2 THEN CASE WHEN drawn < 150 THEN '"no"' ELSE '"yes"' END
    WHEN 3 THEN (drawn / 1000)::VARCHAR
    WHEN 5 THEN CASE WHEN drawn < 500 THEN '"web"' ELSE '"phone"' END
    ELSE CASE WHEN drawn < 20 * (scorer + 1) THEN 'false' ELSE 'true' END
  END AS value,
  CASE WHEN scorer < 4 THEN 'The answer does what it should.' END AS comment,
  make_timestamptz(at) AS created_at,
  make_timestamptz(at) AS updated_at,
  make_timestamptz(at) AS last_updated_at,
  make_timestamptz(at) AS received_at,
  make_timestamptz(at)::DATE AS arrival_date,
  CASE scorer WHEN 4 THEN 'someone' ELSE 'judge' END AS created_by,
  CASE scorer WHEN 4 THEN 'HUMAN' WHEN 5 THEN NULL ELSE 'LLM_JUDGE' END AS source_type,
  printf('%011x-%s-%016x', at // 1000, 'bench', trace * 6 + scorer) AS record_id,
  '1' AS experiment_id,
  true AS valid
FROM (
  SELECT
    trace,
    scorer,
    hash(trace, scorer) % 1000 AS drawn,
    $at + (trace - $first) * 3600000000 // $traces AS at
  FROM range($first, $first + $traces) AS traces (trace), range(6) AS scorers (scorer)
)
WHERE scorer <> 5 OR trace % 10 = 0;

-- name: mlflow_monitor_decisions
SELECT
  md5('a' || trace || scorer) || md5('c' || trace || scorer) AS decision_id,
  '1' AS experiment_id,
  ['safety', 'polite', 'relevant', 'grade'][scorer + 1] AS scorer,
  1 AS version,
  1 AS epoch,
  -1 AS stratum,
  'trace' AS unit_type,
  md5(trace::VARCHAR) AS unit_id,
  0 AS revision,
  md5(trace::VARCHAR) AS trace_id,
  'scored' AS decision,
  1 AS units,
  1.0 AS inclusion_probability,
  (hash(trace) % 1000) / 1000 AS draw,
  '[{"assessment_id":"a","name":"' || ['safety', 'polite', 'relevant', 'grade'][scorer + 1]
    || '","value":' || CASE WHEN hash(trace, scorer) % 1000 < 20 THEN 'false' ELSE 'true' END
    || '}]' AS scores,
  1 AS attempts,
  (hash(trace, scorer) % 3000)::DOUBLE AS milliseconds,
  'openai:/small' AS model,
  1 AS calls,
  500 AS input_tokens,
  20 AS output_tokens,
  0.0002 AS cost_usd,
  make_timestamptz(at) AS completed_at,
  make_timestamptz(at) AS decided_at,
  make_timestamptz(at) AS received_at,
  make_timestamptz(at)::DATE AS arrival_date,
  'live' AS origin,
  printf('%011x-%s-%016x', at // 1000, 'bench', trace * 4 + scorer) AS record_id
FROM (
  SELECT
    trace,
    scorer,
    $at + (trace - $first) * 3600000000 // $traces AS at
  FROM range($first, $first + $traces) AS traces (trace), range(4) AS scorers (scorer)
);
