"""Reporting checklists, answered from what is in a run folder and from nothing else, and cards of its models and its data."""
