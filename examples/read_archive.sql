-- The questions of read_archive.py in Spark SQL (PySpark, Databricks). With the Delta package:
--   spark.read.format("delta").load("<lake>/main/quality/shop_traces")
--     .createOrReplaceTempView("archive")
-- then spark.sql(...) each of these.

-- The newest traces
SELECT request_time, state, execution_duration_ms, request
FROM archive
WHERE arrival_date >= date_sub(current_date(), 1)
ORDER BY request_time DESC
LIMIT 5;

-- The mean of each scorer and the people behind it, overridden assessments left out
SELECT one.assessment_name, one.source.source_type, count(*) AS assessments,
  avg(CASE one.feedback.value WHEN 'true' THEN 1 WHEN 'yes' THEN 1
        WHEN 'false' THEN 0 WHEN 'no' THEN 0 END) AS pass_rate
FROM (SELECT explode(assessments) AS one FROM archive)
WHERE one.valid AND one.feedback IS NOT NULL AND one.feedback.error IS NULL
GROUP BY one.assessment_name, one.source.source_type
ORDER BY one.assessment_name, one.source.source_type;

-- Which spans take longest
SELECT span.name, count(*) AS calls,
  round(avg(span.end_time_unix_nano - span.start_time_unix_nano) / 1e6, 1) AS ms
FROM (SELECT explode(spans) AS span FROM archive)
GROUP BY span.name
ORDER BY ms DESC
LIMIT 10;

-- Traces and failures by a tag
SELECT tags['agent_version'] AS agent_version, count(*) AS traces,
  count_if(state = 'ERROR') AS failed
FROM archive
GROUP BY tags['agent_version'];
