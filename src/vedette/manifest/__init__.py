"""``vedette.yaml``: how experiments, scorers and alerts are to be, and making them so.

A file is read and checked whole, compared with what a server has, and the difference applied.
"""
