"""The start of the processes of a run, as far as one process shows it."""

import pytest

from histojax.common.errors import UserError
from histojax.parallel import processes
from histojax.parallel.processes import started

PLAIN = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:9", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


def test_nothing_said_is_one_process():
    with started({}) as together:
        assert (together.index, together.count) == (0, 1)


def test_a_process_that_comes_alone_is_told_what_to_look_for(monkeypatch):
    monkeypatch.setattr(processes, "START_SECONDS", 0.3)
    alone = started(PLAIN)
    with pytest.raises(UserError, match=r"process 1 of 2 \(variables\): process 0 cannot be reached at 127.0.0.1:9 "):
        alone.__enter__()
