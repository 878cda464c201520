"""The Delta tables: schemas, appends with transaction ids, compaction, maintenance, reads by trace id."""
