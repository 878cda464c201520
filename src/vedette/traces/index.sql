-- The read model: every trace, tag, metadata entry, span (narrow) and assessment as of a journal
-- position. It is a function of the journal and the lake and can be rebuilt from them. The position
-- is committed in the same transaction as what it covers, so a fold is exact whatever crashes.

CREATE TABLE IF NOT EXISTS positions (
  journal TEXT PRIMARY KEY,
  segment INTEGER NOT NULL,           -- folded up to here
  offset INTEGER NOT NULL,
  lake_segment INTEGER NOT NULL DEFAULT 0  -- every segment up to this one is in the lake
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS traces (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  trace_id TEXT NOT NULL UNIQUE,
  experiment_id INTEGER NOT NULL,
  timestamp_ms INTEGER NOT NULL,
  execution_time_ms INTEGER,
  status TEXT NOT NULL,
  finalized INTEGER NOT NULL,         -- 1: start_trace has said what the trace is
  client_request_id TEXT,
  trace_name TEXT,
  session_id TEXT,
  input_tokens INTEGER,
  output_tokens INTEGER,
  total_tokens INTEGER,
  cache_read_input_tokens INTEGER,
  cache_creation_input_tokens INTEGER,
  cache_creation_input_tokens_above_1hr INTEGER,
  input_cost REAL,
  output_cost REAL,
  total_cost REAL,
  said_tokens INTEGER NOT NULL DEFAULT 0,  -- 1: start_trace told them; spans don't change them
  said_cost INTEGER NOT NULL DEFAULT 0,
  has_root INTEGER NOT NULL,          -- 1: an ended root span has arrived
  span_count INTEGER NOT NULL,        -- distinct spans that have arrived
  first_received_ms INTEGER NOT NULL, -- arrival of its first and last span or start_trace
  last_received_ms INTEGER NOT NULL,
  completed_ms INTEGER                -- when it was taken as complete; null until then
);
CREATE INDEX IF NOT EXISTS traces_by_time ON traces (experiment_id, timestamp_ms DESC, trace_id);
CREATE INDEX IF NOT EXISTS traces_by_session ON traces (session_id, timestamp_ms)
  WHERE session_id IS NOT NULL;

CREATE TABLE IF NOT EXISTS trace_previews (
  trace INTEGER PRIMARY KEY REFERENCES traces (id),
  request TEXT,
  response TEXT
);

CREATE TABLE IF NOT EXISTS trace_tags (
  trace INTEGER NOT NULL,
  key TEXT NOT NULL,
  value TEXT,
  PRIMARY KEY (trace, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS trace_tags_by_value ON trace_tags (key, value);

CREATE TABLE IF NOT EXISTS trace_metadata (  -- but session, token usage and cost: columns of traces
  trace INTEGER NOT NULL,
  key TEXT NOT NULL,
  value TEXT,
  PRIMARY KEY (trace, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS trace_metadata_by_value ON trace_metadata (key, value);

CREATE TABLE IF NOT EXISTS spans (            -- the narrow part; content is in the lake
  trace INTEGER NOT NULL,
  span_id TEXT NOT NULL,
  parent_span_id TEXT,
  name TEXT NOT NULL,
  type TEXT,
  status TEXT NOT NULL,               -- OK | ERROR | UNSET
  start_ns INTEGER NOT NULL,
  end_ns INTEGER,
  usage TEXT,                         -- JSON, as on the span
  cost TEXT,
  input_cost REAL,
  output_cost REAL,
  total_cost REAL,
  model_name TEXT,
  model_provider TEXT,
  received_ms INTEGER NOT NULL,       -- arrival of the version that counts
  content_size INTEGER NOT NULL,      -- characters of its attributes in the lake
  PRIMARY KEY (trace, span_id)
) WITHOUT ROWID;

-- With a rowid: assessments of the same millisecond are listed in the order in which they came.
CREATE TABLE IF NOT EXISTS assessments (
  assessment_id TEXT PRIMARY KEY,
  trace INTEGER NOT NULL,
  name TEXT NOT NULL,
  assessment_type TEXT NOT NULL,
  value TEXT NOT NULL,
  error TEXT,
  created_timestamp INTEGER NOT NULL,
  last_updated_timestamp INTEGER NOT NULL,
  source_type TEXT NOT NULL,
  source_id TEXT,
  run_id TEXT,
  span_id TEXT,
  rationale TEXT,
  overrides TEXT,
  valid INTEGER NOT NULL,
  assessment_metadata TEXT,
  aggregate_value REAL,
  is_numeric_value INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS assessments_by_trace ON assessments (trace, created_timestamp);
CREATE INDEX IF NOT EXISTS assessments_by_run ON assessments (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS assessments_by_name ON assessments (name, assessment_type);
CREATE INDEX IF NOT EXISTS assessments_of_people ON assessments (name, last_updated_timestamp)
  WHERE source_type = 'HUMAN';
-- Those of a whole session: a filter on assessments finds the session's other traces by them.
CREATE INDEX IF NOT EXISTS assessments_of_sessions ON assessments (name, assessment_type)
  WHERE instr(assessment_metadata, '"mlflow.trace.session":') > 0;

-- Links are kept by trace_id: like MLflow's, they may come before the trace.
CREATE TABLE IF NOT EXISTS run_links (
  trace_id TEXT NOT NULL,
  run_id TEXT NOT NULL,
  PRIMARY KEY (trace_id, run_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS run_links_by_run ON run_links (run_id);

CREATE TABLE IF NOT EXISTS prompt_links (
  trace_id TEXT NOT NULL,
  prompt TEXT NOT NULL,               -- name/version
  PRIMARY KEY (trace_id, prompt)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS prompt_links_by_prompt ON prompt_links (prompt);

-- Which traces each fold touched (gone from `traces`: deleted): the columnar mirror for metrics and
-- the archives follow this. Batch numbers come from `counters` and never repeat.
CREATE TABLE IF NOT EXISTS counters (
  name TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT OR IGNORE INTO counters VALUES ('batch', 0);
INSERT OR IGNORE INTO counters VALUES ('identity', random());  -- tells one read model from another

CREATE TABLE IF NOT EXISTS changes (
  batch INTEGER NOT NULL,
  trace INTEGER NOT NULL,
  PRIMARY KEY (batch, trace)
) WITHOUT ROWID;

-- Traces that were deleted, by the batch of changes: who keeps copies of traces by their ids, the
-- archives, deletes those. Unlike "not in `traces`", it tells ours from what others put there.
CREATE TABLE IF NOT EXISTS deletions (
  batch INTEGER NOT NULL,
  trace_id TEXT NOT NULL,
  PRIMARY KEY (batch, trace_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deletions_by_trace ON deletions (trace_id);

-- Traces that were deleted for good: what arrives of them is left out.
CREATE TABLE IF NOT EXISTS erased (
  trace_id TEXT PRIMARY KEY
) WITHOUT ROWID;

-- Deleted traces whose rows are still in the lake's files.
CREATE TABLE IF NOT EXISTS leaving (
  trace_id TEXT PRIMARY KEY,
  for_good INTEGER NOT NULL,
  deleted_us INTEGER NOT NULL         -- when, in the order of arrival: microseconds since the epoch
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS leaving_by_urgency ON leaving (for_good, deleted_us);

-- Traces that have had spans or start_trace and are not yet complete.
CREATE TABLE IF NOT EXISTS completing (
  trace INTEGER PRIMARY KEY,
  last_received_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS completing_by_arrival ON completing (last_received_ms);

-- Traces that have gone quiet without a root that ended: given up when they are too old.
CREATE TABLE IF NOT EXISTS rootless (
  trace INTEGER PRIMARY KEY,
  since_ms INTEGER NOT NULL           -- its age counts from then on
);
CREATE INDEX IF NOT EXISTS rootless_by_age ON rootless (since_ms);

-- Sessions to which something came since they were last complete.
CREATE TABLE IF NOT EXISTS completing_sessions (
  experiment_id INTEGER NOT NULL,
  session_id TEXT NOT NULL,
  last_received_ms INTEGER NOT NULL,
  PRIMARY KEY (experiment_id, session_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS completing_sessions_by_arrival ON completing_sessions (last_received_ms);

-- Complete traces whose annotations changed since scoring looked: filters may compare them.
CREATE TABLE IF NOT EXISTS annotated (
  trace INTEGER PRIMARY KEY
);

-- Units in the order in which they became complete: what scorers' cursors run over. A trace is
-- there again when its root came late, or when an annotation may make a filter match it.
CREATE TABLE IF NOT EXISTS completed (
  position INTEGER PRIMARY KEY AUTOINCREMENT,
  reason TEXT NOT NULL,               -- complete | incomplete | late_root | annotated | session
  trace INTEGER NOT NULL,             -- of a session: its first; may have been deleted since
  experiment_id INTEGER NOT NULL,
  session_id TEXT,
  revision INTEGER NOT NULL DEFAULT 0,
  arrival INTEGER NOT NULL DEFAULT 0, -- its place in the order of arrivals; 0 if annotated
  completed_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS completed_by_trace ON completed (trace);
CREATE INDEX IF NOT EXISTS completed_traces ON completed (position)
  WHERE session_id IS NULL AND arrival > 0;
CREATE INDEX IF NOT EXISTS completed_sessions ON completed (position) WHERE session_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS completed_by_session ON completed (session_id, experiment_id, revision)
  WHERE session_id IS NOT NULL;

CREATE TABLE IF NOT EXISTS session_revisions (
  experiment_id INTEGER NOT NULL,
  session_id TEXT NOT NULL,
  revision INTEGER NOT NULL,          -- the newest: 0, 1, ...
  PRIMARY KEY (experiment_id, session_id)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS scorer_cursors (
  scorer TEXT PRIMARY KEY,            -- the key of a Stream in vedette.intake.records; so below
  position INTEGER NOT NULL           -- every unit completed up to here is decided
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS scorer_epochs (
  scorer TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  opened_ms INTEGER NOT NULL,
  after_position INTEGER NOT NULL,
  version INTEGER NOT NULL,
  rate REAL NOT NULL,
  filter TEXT,
  strata TEXT NOT NULL,               -- JSON: [[filter, rate], ...]
  reason TEXT NOT NULL,
  of_sessions INTEGER NOT NULL,       -- 1: its units are sessions
  PRIMARY KEY (scorer, epoch)
) WITHOUT ROWID;

-- What became of each selected unit, and of those that may yet be; see `DecisionRow` in vedette.intake.records.
CREATE TABLE IF NOT EXISTS decisions (
  scorer TEXT NOT NULL,
  unit_id TEXT NOT NULL,
  revision INTEGER NOT NULL,
  unit_type TEXT NOT NULL,
  trace_id TEXT NOT NULL,
  version INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  stratum INTEGER NOT NULL,
  inclusion_probability REAL NOT NULL,
  draw REAL NOT NULL,
  decision TEXT NOT NULL,
  scores TEXT NOT NULL,
  error_code TEXT,
  error TEXT,
  attempts INTEGER NOT NULL,
  first_attempt_ms INTEGER,
  next_attempt_ms INTEGER,
  milliseconds REAL,
  worker TEXT,
  model TEXT,
  calls INTEGER NOT NULL,
  input_tokens INTEGER,
  output_tokens INTEGER,
  cost_usd REAL,
  completed_ms INTEGER NOT NULL,
  decided_ms INTEGER NOT NULL,
  origin TEXT NOT NULL,
  PRIMARY KEY (scorer, unit_id, revision)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS decisions_of_unit ON decisions (unit_id);
CREATE INDEX IF NOT EXISTS decisions_of_sessions ON decisions (trace_id)
  WHERE unit_type = 'session';
CREATE INDEX IF NOT EXISTS decisions_retrying ON decisions (next_attempt_ms)
  WHERE decision = 'retrying';
CREATE INDEX IF NOT EXISTS decisions_failed ON decisions (scorer, decided_ms)
  WHERE decision IN ('failed', 'retrying');
CREATE INDEX IF NOT EXISTS decisions_left ON decisions (scorer)
  WHERE decision IN ('superseded', 'stopped', 'deleted');

-- History to be scored, or that was; see `BackfillRow` in vedette.intake.records.
CREATE TABLE IF NOT EXISTS backfills (
  job TEXT PRIMARY KEY,
  experiment_id INTEGER NOT NULL,
  scorers TEXT NOT NULL,              -- JSON
  start_ms INTEGER NOT NULL,
  end_ms INTEGER NOT NULL,
  trace_arrival INTEGER NOT NULL,
  session_arrival INTEGER NOT NULL,
  rescore INTEGER NOT NULL,
  created_ms INTEGER NOT NULL,
  cancelled_ms INTEGER
) WITHOUT ROWID;

-- Sums of the decisions, with and without a row above: they add up to the traffic.
CREATE TABLE IF NOT EXISTS decision_counts (
  scorer TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  stratum INTEGER NOT NULL,
  hour_ms INTEGER NOT NULL,
  decision TEXT NOT NULL,
  units INTEGER NOT NULL,
  PRIMARY KEY (scorer, epoch, stratum, hour_ms, decision)
) WITHOUT ROWID;

-- What scoring cost, by the day (UTC) on which the calls were made, failed ones included.
CREATE TABLE IF NOT EXISTS scorer_costs (
  scorer TEXT NOT NULL,
  day INTEGER NOT NULL,               -- days since the epoch
  calls INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cost_usd REAL NOT NULL,
  PRIMARY KEY (scorer, day)
) WITHOUT ROWID;
