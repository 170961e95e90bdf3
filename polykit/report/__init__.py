"""Figures, words and the HTML page, drawn from a saved run only."""
