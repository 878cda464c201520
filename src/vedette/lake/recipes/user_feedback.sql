-- How many users say what they think, and how many are content, by day of the last 28?
-- feedback_rate: traces with feedback among all. positive_rate: content ones among the opinions.
-- Feedback is named `user_feedback`, from a human; the newest of a user on a trace counts.

WITH traces AS (  -- root spans, each once, without those of deleted traces
  SELECT
    trace_id,
    time
  FROM main.default.mlflow_otel_spans
  WHERE
    parent_span_id IS NULL
    AND time >= CURRENT_TIMESTAMP() - INTERVAL 28 DAYS
    AND trace_id NOT IN (
      SELECT target_id
      FROM main.default.mlflow_otel_annotations
      WHERE annotation_type = 'METADATA' AND deleted_at IS NOT NULL
    )
  QUALIFY ROW_NUMBER() OVER (PARTITION BY trace_id, span_id ORDER BY record_id DESC) = 1
),
versions AS (  -- the newest version of each
  SELECT
    SPLIT_PART(target_id, ':', 1) AS trace_id,
    created_by,
    created_at,
    record_id,
    CASE WHEN LOWER(value) IN ('true', '"yes"', '1') THEN 1.0 ELSE 0.0 END AS positive,
    deleted_at IS NULL AND valid AND source_type = 'HUMAN' AND error IS NULL AS counts
  FROM main.default.mlflow_otel_annotations
  WHERE
    updated_at >= CURRENT_TIMESTAMP() - INTERVAL 28 DAYS
    AND COALESCE(annotation_type, 'FEEDBACK') = 'FEEDBACK'  -- NULL: deleted
    AND COALESCE(name, 'user_feedback') = 'user_feedback'
    AND SPLIT_PART(target_id, ':', 1) NOT IN (
      SELECT target_id
      FROM main.default.mlflow_otel_annotations
      WHERE annotation_type = 'METADATA' AND deleted_at IS NOT NULL
    )
  QUALIFY
    ROW_NUMBER() OVER (PARTITION BY annotation_id ORDER BY updated_at DESC, record_id DESC) = 1
),
opinions AS (
  SELECT
    trace_id,
    positive
  FROM versions
  WHERE counts
  QUALIFY
    ROW_NUMBER() OVER (
      PARTITION BY trace_id, created_by ORDER BY created_at DESC, record_id DESC
    ) = 1
),
feedback AS (
  SELECT
    trace_id,
    COUNT(*) AS opinions,
    SUM(positive) AS positive
  FROM opinions
  GROUP BY trace_id
)
SELECT
  DATE_TRUNC('DAY', traces.time) AS day,
  COUNT(*) AS traces,
  COUNT(feedback.trace_id) AS traces_with_feedback,
  COUNT(feedback.trace_id) / COUNT(*) AS feedback_rate,
  SUM(feedback.positive) / SUM(feedback.opinions) AS positive_rate
FROM traces
LEFT JOIN feedback ON traces.trace_id = feedback.trace_id
GROUP BY 1
ORDER BY day
