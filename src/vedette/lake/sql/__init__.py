"""Read-only SQL over a snapshot of the lake's tables: dialects, views, the sandbox it runs in."""
