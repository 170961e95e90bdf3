"""Bisection, against looking at every step."""

from math import ceil, log2

from hypothesis import given
from hypothesis import strategies as st

from polykit.runtime.pruning.bisection import crossing


@given(st.integers(1, 300), st.data())
def test_where_it_ends_once_that_is_found_with_few_questions(last, data):
    end = data.draw(st.integers(1, last))
    asked = []

    def holds(step):
        asked.append(step)
        return step < end

    assert crossing(last, holds) == end
    assert len(asked) == len(set(asked)) <= 1 + ceil(log2(last))


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_where_it_ends_often_one_of_the_ends_is_found(holding):
    found = crossing(len(holding), lambda step: holding[step - 1])
    if holding[-1]:
        assert found is None
    else:
        assert not holding[found - 1]
        assert found == 1 or holding[found - 2]
