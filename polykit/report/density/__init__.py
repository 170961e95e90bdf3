"""The report of a density study: numbers, figures, tables and words from a saved run."""
