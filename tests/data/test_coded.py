import numpy as np
import pytest

from histojax.data.coded import Coded, joined


def test_coded_names_behave_as_an_array_of_them():
    names = ["b", "", "a", "b", ""]
    coded = Coded.of(names)
    assert coded.table.tolist() == ["", "a", "b"] and coded.tolist() == list(coded) == names and len(coded) == 5
    assert coded[3] == "b" and coded[[0, 2]].tolist() == ["b", "a"] and (np.asarray(coded) == names).all()
    assert (coded == "b").tolist() == [True, False, False, True, False]
    assert coded.known().tolist() == [True, False, True, True, False]
    assert coded.used() == ["a", "b"] and coded.count() == 4  # each without a name is one of its own
    assert coded.take(np.array([1, 2])).used() == ["a"] and Coded.of(coded) is coded


@pytest.mark.parametrize("second", [["c", "b"], [""], []])
def test_joined_over_one_table(second):
    parts = [Coded.of(["b", "a"]), Coded.of(np.array(second, str))]
    both = joined(parts)
    assert both.tolist() == ["b", "a", *second] and sorted(set(both.table)) == both.table.tolist()
