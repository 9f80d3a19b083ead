"""The executor ray on a local cluster of two nodes: results, errors, a worker that dies, a poisonous unit."""

import os
import signal
import sys
from pathlib import Path

import pytest

from histojax.common.errors import UserError
from histojax.common.work import run

pytest.importorskip("ray")
TESTS = str(Path(__file__).parent)


class Bad(Exception):
    def __init__(self, reason):
        super().__init__(reason)
        self.reason = reason


def work(unit):
    kind, value = unit
    if kind == "bad":
        raise Bad(value)
    if kind == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "once" and not os.path.exists(value):
        with open(value, "w"):
            os.kill(os.getpid(), signal.SIGKILL)
    if kind == "disk":
        raise UserError(value)
    return kind


@pytest.fixture(scope="module")
def cluster():
    import ray
    from ray.cluster_utils import Cluster

    old = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([TESTS, *(p for p in sys.path if p)])
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    yield nodes
    ray.shutdown()
    nodes.shutdown()
    os.environ["PYTHONPATH"] = old


def test_units_on_a_cluster(cluster, tmp_path):
    units = [("good", 1), ("bad", "no tissue"), ("poison", 0), ("once", str(tmp_path / "tried")), ("good", 2)]
    outcomes = {o.unit: o for o in run(work, units, 2, executor="ray", tries=2)}
    assert [bool(outcomes[unit].value) for unit in units] == [True, False, False, True, True]
    assert outcomes[units[1]].error == "no tissue"
    assert outcomes[units[2]].quarantined and outcomes[units[2]].error.startswith("quarantined: 2 processes")


def test_what_its_reader_has_to_act_on_ends_everything(cluster):
    with pytest.raises(UserError, match="make room"):
        list(run(work, [("good", 1), ("disk", "make room")], 2, executor="ray"))
