"""Read: one trace, a search, a session, trace metrics; over the read model and the lake."""
