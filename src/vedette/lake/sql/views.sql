-- Views over the tables, in Databricks' dialect. `vedette views` puts them together and translates
-- them. What is common to both:

-- name: said
-- What was said about each trace: the newest version of each annotation, without the deleted ones.
-- A METADATA row with deleted_at deletes the trace, and with it all that arrived before.
WITH deletions AS (
  SELECT target_id AS trace_id, MAX(record_id) AS record_id
  FROM main.default.mlflow_otel_annotations
  WHERE annotation_type = 'METADATA' AND deleted_at IS NOT NULL
  GROUP BY target_id
),
versions AS (
  SELECT
    *,
    ROW_NUMBER() OVER (PARTITION BY annotation_id ORDER BY updated_at DESC, record_id DESC) AS version
  FROM main.default.mlflow_otel_annotations
),
placed AS (
  SELECT
    *,
    CASE target_type
      WHEN 'SPAN' THEN REGEXP_REPLACE(target_id, ':[^:]*$', '')
      ELSE target_id
    END AS trace_id
  FROM versions
  WHERE version = 1 AND deleted_at IS NULL
),
said AS (
  SELECT placed.*
  FROM placed
  LEFT JOIN deletions ON placed.trace_id = deletions.trace_id
  WHERE deletions.record_id IS NULL OR placed.record_id > deletions.record_id
),
headers AS (
  SELECT
    trace_id,
    value:client_request_id AS client_request_id,
    value:request_time::BIGINT AS request_time,
    value:execution_duration::BIGINT AS execution_duration,
    value:state AS state,
    value:request_preview AS request_preview,
    value:response_preview AS response_preview,
    FROM_JSON(value:trace_metadata, 'MAP<STRING, STRING>') AS trace_metadata
  FROM said
  WHERE annotation_type = 'METADATA'
),
tags AS (
  SELECT
    trace_id,
    COLLECT_LIST(STRUCT(name AS key, GET_JSON_OBJECT(value, '$') AS value)) AS entries,
    MAX(name = 'mlflow.traceName') AS named
  FROM said
  WHERE annotation_type = 'TAG'
  GROUP BY trace_id
),
assessments AS (
  SELECT
    trace_id,
    COLLECT_LIST(
      STRUCT(
        annotation_id AS assessment_id,
        name AS assessment_name,
        STRUCT(source_type AS source_type, created_by AS source_id) AS source,
        created_at AS create_time,
        last_updated_at AS last_update_time,
        CASE WHEN annotation_type = 'EXPECTATION' THEN STRUCT(value AS value) END AS expectation,
        CASE
          WHEN annotation_type = 'FEEDBACK' THEN STRUCT(value AS value, error AS error)
        END AS feedback,
        comment AS rationale,
        FROM_JSON(metadata, 'MAP<STRING, STRING>') AS metadata,
        CASE target_type WHEN 'SPAN' THEN REGEXP_EXTRACT(target_id, ':([^:]*)$', 1) END AS span_id,
        overrides AS overrides,
        valid AS valid
      )
    ) AS assessments
  FROM said
  WHERE annotation_type IN ('FEEDBACK', 'EXPECTATION', 'ISSUE')
  GROUP BY trace_id
)

-- name: trace_metadata
SELECT
  traces.trace_id,
  headers.client_request_id,
  MAP_FROM_ENTRIES(tags.entries) AS tags,
  headers.trace_metadata,
  assessments.assessments
FROM (
  SELECT DISTINCT trace_id
  FROM said
  WHERE annotation_type IN ('METADATA', 'TAG', 'FEEDBACK', 'EXPECTATION', 'ISSUE')
) AS traces
LEFT JOIN headers ON traces.trace_id = headers.trace_id
LEFT JOIN tags ON traces.trace_id = tags.trace_id
LEFT JOIN assessments ON traces.trace_id = assessments.trace_id

-- name: trace_unified
, arrived AS (
  SELECT
    sent.*,
    ROW_NUMBER() OVER (PARTITION BY sent.trace_id, sent.span_id ORDER BY sent.record_id DESC)
      AS version
  FROM main.default.mlflow_otel_spans AS sent
  LEFT JOIN deletions ON sent.trace_id = deletions.trace_id
  WHERE deletions.record_id IS NULL OR sent.record_id > deletions.record_id
),
spans AS (  -- each once: its newest version
  SELECT * FROM arrived WHERE version = 1
),
roots AS (
  SELECT
    trace_id,
    name,
    CASE status.code WHEN 'STATUS_CODE_ERROR' THEN 'ERROR' ELSE 'OK' END AS state,
    attributes:`mlflow.spanInputs` AS request,
    attributes:`mlflow.spanOutputs` AS response
  FROM spans
  WHERE parent_span_id IS NULL
  QUALIFY ROW_NUMBER() OVER (PARTITION BY trace_id ORDER BY start_time_unix_nano, record_id) = 1
),
named AS (  -- who the spans say it was; the first that says so counts
  SELECT
    trace_id,
    record_id,
    COALESCE(attributes:`session.id`, attributes:`gen_ai.conversation.id`) AS session_id,
    attributes:`user.id` AS user_id
  FROM spans
),
people AS (
  SELECT
    trace_id,
    MIN_BY(session_id, record_id) FILTER (WHERE session_id IS NOT NULL) AS session_id,
    MIN_BY(user_id, record_id) FILTER (WHERE user_id IS NOT NULL) AS user_id
  FROM named
  GROUP BY trace_id
),
trees AS (
  SELECT
    trace_id,
    MIN(start_time_unix_nano) DIV 1000000 AS started,  -- milliseconds
    MAX(end_time_unix_nano) DIV 1000000 AS ended,
    SORT_ARRAY(
      COLLECT_LIST(
        STRUCT(
          start_time_unix_nano,
          end_time_unix_nano,
          span_id,
          parent_span_id,
          name,
          kind,
          span_type,
          status,
          attributes,
          events
        )
      )
    ) AS spans
  FROM spans
  GROUP BY trace_id
)
SELECT
  traces.trace_id,
  headers.client_request_id,
  TIMESTAMP_MILLIS(COALESCE(headers.request_time, trees.started)) AS request_time,
  CASE
    WHEN headers.state IN ('OK', 'ERROR') THEN headers.state
    ELSE COALESCE(roots.state, 'IN_PROGRESS')
  END AS state,
  CASE
    WHEN headers.trace_id IS NULL THEN trees.ended - trees.started
    ELSE headers.execution_duration
  END AS execution_duration_ms,
  COALESCE(roots.request, headers.request_preview) AS request,
  COALESCE(roots.response, headers.response_preview) AS response,
  MAP_FROM_ENTRIES(
    FLATTEN(
      ARRAY(
        COALESCE(MAP_ENTRIES(headers.trace_metadata), ARRAY()),
        CASE
          WHEN people.session_id IS NOT NULL AND headers.trace_metadata['mlflow.trace.session'] IS NULL
          THEN ARRAY(STRUCT('mlflow.trace.session' AS key, people.session_id AS value))
          ELSE ARRAY()
        END,
        CASE
          WHEN people.user_id IS NOT NULL AND headers.trace_metadata['mlflow.trace.user'] IS NULL
          THEN ARRAY(STRUCT('mlflow.trace.user' AS key, people.user_id AS value))
          ELSE ARRAY()
        END
      )
    )
  ) AS trace_metadata,
  MAP_FROM_ENTRIES(
    FLATTEN(
      ARRAY(
        COALESCE(tags.entries, ARRAY()),
        CASE
          WHEN COALESCE(tags.named, FALSE) OR roots.name IS NULL THEN ARRAY()
          ELSE ARRAY(STRUCT('mlflow.traceName' AS key, roots.name AS value))
        END
      )
    )
  ) AS tags,
  trees.spans,
  assessments.assessments
FROM (
  SELECT trace_id FROM spans
  UNION
  SELECT trace_id FROM headers
) AS traces
LEFT JOIN headers ON traces.trace_id = headers.trace_id
LEFT JOIN roots ON traces.trace_id = roots.trace_id
LEFT JOIN people ON traces.trace_id = people.trace_id
LEFT JOIN trees ON traces.trace_id = trees.trace_id
LEFT JOIN tags ON traces.trace_id = tags.trace_id
LEFT JOIN assessments ON traces.trace_id = assessments.trace_id
