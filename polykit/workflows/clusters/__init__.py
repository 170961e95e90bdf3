"""Clusters: which units are driven by several groups of pictures.

One pass keeps every unit's activation; each unit's top pictures are then clustered by what the
whole layer makes of them.
"""
