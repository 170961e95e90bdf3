"""The report of a run of `analyze`: pruners against density, dense network and random beside."""
