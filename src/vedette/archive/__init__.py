"""Keep one queryable row per trace in a Delta table of the user's choosing."""
