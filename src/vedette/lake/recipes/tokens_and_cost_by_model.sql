-- What did each model use and cost in the last 7 days?
-- Calls are the spans that name a model. Costs in US dollars; NULL if the model has no known price.

WITH spans AS (  -- each once, without those of deleted traces
  SELECT
    model_provider,
    model_name,
    total_cost,
    FROM_JSON(
      attributes:`mlflow.chat.tokenUsage`,
      'STRUCT<input_tokens: BIGINT, output_tokens: BIGINT>'
    ) AS tokens
  FROM main.default.mlflow_otel_spans
  WHERE
    time >= CURRENT_TIMESTAMP() - INTERVAL 7 DAYS
    AND model_name IS NOT NULL
    AND trace_id NOT IN (
      SELECT target_id
      FROM main.default.mlflow_otel_annotations
      WHERE annotation_type = 'METADATA' AND deleted_at IS NOT NULL
    )
  QUALIFY ROW_NUMBER() OVER (PARTITION BY trace_id, span_id ORDER BY record_id DESC) = 1
)
SELECT
  model_provider AS provider,
  model_name AS model,
  COUNT(*) AS calls,
  SUM(tokens.input_tokens) AS input_tokens,
  SUM(tokens.output_tokens) AS output_tokens,
  SUM(total_cost) AS cost_usd
FROM spans
GROUP BY model_provider, model_name
ORDER BY cost_usd DESC NULLS LAST, calls DESC
