"""What Vedette costs and carries, measured beside a stock ``mlflow server`` in the same run.

``python -m bench`` runs every figure; ``python -m bench.otlp`` (``sdk``, ``reads``, ``million``)
runs one. Each prints its rows and rewrites its own section of ``bench/RESULTS.md``.
``python -m bench.crash`` is not a figure but a proof: it kills the parts at random moments and then
counts what was acknowledged.
"""
