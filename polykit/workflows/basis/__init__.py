"""Interaction graphs of networks, before and after pruning, in several bases; and their modules."""
