"""The report of a run, made from its folder alone: no network, no torch, no plugin."""
