"""Decide what to score, run scorers away from the server, write the scores."""
