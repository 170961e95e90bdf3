"""The report of a map: numbers, figures, tables and words from a saved run."""
