"""The start of the processes of a run, as far as one process shows it."""

import socket

import pytest

from histojax.common import cli
from histojax.common.errors import OthersMissing, UserError
from histojax.parallel import launchers, processes
from histojax.parallel.processes import started

PLAIN = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:9", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


def test_nothing_said_is_one_process():
    with started({}) as together:
        assert (together.index, together.count) == (0, 1)


def test_a_process_that_comes_alone_is_told_what_to_look_for(monkeypatch):
    monkeypatch.setattr(processes, "START_SECONDS", 0.3)
    alone = started(PLAIN)
    with pytest.raises(
        OthersMissing, match=r"process 1 of 2 \(variables\): process 0 cannot be reached at 127.0.0.1:9 "
    ):
        alone.__enter__()


def test_process_0_does_not_share_its_port_with_another_run(monkeypatch):
    """jax would, and the processes of the two runs would find either."""
    monkeypatch.setattr(processes, "FREE_SECONDS", 0.3)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        second = started(PLAIN | {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_PROCESS_ID": "0"})
        with pytest.raises(UserError, match=f"process 0 of 2 .*: port {port} of this host cannot be had"):
            second.__enter__()


def test_processes_that_were_told_different_numbers_do_not_begin(monkeypatch):
    class Two(processes.Together):
        def gather(self, value):
            return [value, 3]

    left = []
    monkeypatch.setattr(Two, "leave", lambda self, words, code: left.append(code))
    monkeypatch.setattr(processes, "_start", lambda cluster: Two(0, 2))
    with pytest.raises(UserError, match="process 1 was told that there are 3 processes, process 0 2"):
        started(PLAIN).__enter__()
    assert left == [2]


def test_a_missing_process_is_no_bad_input(capsys):
    """A scheduler starts a pod again for it, and gives up where the input is bad."""

    def alone():
        raise OthersMissing("process 1 of 2: process 0 cannot be reached")

    assert cli.guarded("histojax train", alone) == 4
    assert "process 0 cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize("said", [{}, {"JAX_COORDINATOR_ADDRESS": "10.0.0.2:8476"}])
def test_a_tpu_slice_tells_jax_who_a_process_is_wherever_they_meet(monkeypatch, said):
    """A firewall may let through another port than that of jax: the address is said, the numbers are not."""
    asked = {}

    def initialize(address, count, index, devices, **more):
        asked.update(address=address, count=count, index=index, **more)

    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(processes.jax.distributed, "initialize", initialize)
    monkeypatch.setattr(processes, "_connect", processes.Together)
    with started({"TPU_WORKER_HOSTNAMES": "t-0,t-1"} | said):
        pass
    assert asked["address"] == said.get("JAX_COORDINATOR_ADDRESS") and asked["count"] is None
    assert asked["cluster_detection_method"] is None
