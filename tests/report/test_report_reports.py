from __future__ import annotations

import pytest

from polykit.errors import RunError
from polykit.report.reports import REPORTS, report_of
from polykit.runtime.tables import TABLES

from .conftest import changed


def test_every_workflow_with_tables_has_a_report():
    assert set(REPORTS) == set(TABLES)


def test_a_run_gets_its_workflows_report(make_run):
    run = make_run(densities=(0.5,), width=6)
    assert report_of(run) is REPORTS["analyze"]
    assert report_of(changed(run, {})) is REPORTS["analyze"]
    assert report_of(changed(run, {"workflow": "laboratory"})) is REPORTS["laboratory"]
    with pytest.raises(RunError, match=r"'brew'.*analyze, laboratory"):
        report_of(changed(run, {"workflow": "brew"}))
