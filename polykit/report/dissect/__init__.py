"""The report of a dissection: numbers, figures, words."""
