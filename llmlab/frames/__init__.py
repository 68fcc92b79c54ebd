"""Completions and distributions as dataframes, CSV and parquet; columns and dtypes are declared in `schema`."""
