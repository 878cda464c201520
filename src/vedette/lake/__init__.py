"""The Delta tables: schemas, appends with transaction ids, maintenance, reads by trace id, SQL."""
