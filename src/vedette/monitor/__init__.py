"""The pages people look at, under ``/monitor``."""
