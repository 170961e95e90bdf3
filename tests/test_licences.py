"""The licences of all that polykit needs to run: open, or accepted for a written reason."""

import pytest

from licences import EXCEPTIONS, excuse, is_open, licences, runtime_requirements

FOUND = licences(runtime_requirements())


@pytest.mark.parametrize("found", FOUND, ids=lambda found: found.name)
def test_dependencies_may_be_used_and_passed_on(found):
    assert is_open(found.terms) or excuse(found.name), (
        f"{found.name} {found.version} is under {found.terms or 'no licence that it names'}; "
        f"do without it, or write the reason into website/licences.py"
    )


def test_all_dependencies_are_looked_at():
    names = {found.name for found in FOUND}
    assert {"torch", "torch-lucent", "graspologic-native"} <= names  # asked for by polykit
    assert {"sympy", "markupsafe"} <= names  # asked for by those


@pytest.mark.parametrize("terms", ["GPL-3.0-only", "AGPL-3.0 AND MIT", "UNKNOWN", "", "LGPL-2.1"])
def test_what_would_bind_polykit_is_refused(terms):
    assert not is_open(terms)


def test_reasons_are_given_only_where_they_are_needed():
    excused = [found for found in FOUND if excuse(found.name)]
    assert all(EXCEPTIONS.values())
    assert not [found.name for found in excused if "GPL" in found.terms]
