"""The report of a comparison: numbers, figures, tables and words from a saved run."""
