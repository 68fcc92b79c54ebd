"""Grids of requests: run as one batch, read as dataframes with intervals, saved and resumed."""
