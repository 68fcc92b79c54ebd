"""Completions and distributions as dataframes, CSV and parquet; kinds of columns are declared in `schema`."""
