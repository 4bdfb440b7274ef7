"""Charts of a report, a file a kind: each function makes pictures from a run's numbers."""
