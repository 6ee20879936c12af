"""The tests of the model catch deliberate faults in it; see mutations.py."""

import pytest
from mutations import MUTATIONS, catching_test, mutated_package


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_the_line_to_change_is_in_the_package_once(mutation, tmp_path):
    mutated_package(mutation, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_fault_is_caught(mutation):
    assert catching_test(mutation) is not None


@pytest.mark.slow
def test_no_fault_is_seen_where_there_is_none():
    assert catching_test(None) is None
