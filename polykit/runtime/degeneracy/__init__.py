"""Coordinates that a network really uses: slopes, bases, interactions, modules."""
