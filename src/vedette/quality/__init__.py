"""Statistics only, no I/O: estimates, intervals, sequential tests, agreement, judge correction.

Pure functions of arrays; a file holds one method, with its source. Three things hold throughout:

- **Weights** are 1 / inclusion probability, so that what was sampled at different rates, or at a
  rate that changed, stands for the traffic. Their scale doesn't matter.
- **Sessions** are the independent units: traces of one session resemble each other. Without
  sessions every unit counts as a session of its own.
- **The traffic itself is a sample** of what the agent does, so an interval says what to expect of
  traffic like this one, and doesn't shrink to a point when every trace was scored.
"""
