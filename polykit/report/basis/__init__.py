"""The report of a run of `basis`: numbers, drawn graphs, tables and words from a saved run."""
