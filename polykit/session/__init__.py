"""The Python face of polykit: what a notebook calls, and what the command line calls."""

from polykit.session.calls import analyze, basis, clusters, compare, density, dissect, visualize
from polykit.session.datasets import load_data, save_truth
from polykit.session.runs import Run, list_runs, open_run, write_report
from polykit.session.sweeps import Plan, plan, rerun, resume, run

__all__ = [
    "Plan",
    "Run",
    "analyze",
    "basis",
    "clusters",
    "compare",
    "density",
    "dissect",
    "list_runs",
    "load_data",
    "open_run",
    "plan",
    "rerun",
    "resume",
    "run",
    "save_truth",
    "visualize",
    "write_report",
]
