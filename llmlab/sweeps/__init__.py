"""Grids of requests: run as one batch, read as frames with intervals, saved and resumed."""
