"""Who started a process beside others, as the environments of schedulers say it."""

import re

import pytest

from histojax.common.errors import UserError
from histojax.parallel import launchers
from histojax.parallel.launchers import Cluster, find_cluster, first_host, tasks_of_node

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[012-013]",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
PLAIN = {"JAX_COORDINATOR_ADDRESS": "node1:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


def test_nothing_said_is_one_process():
    assert find_cluster({}) is None


def test_plain_variables():
    assert find_cluster(PLAIN) == Cluster("variables", "node1:1234", 2, 1)
    indexed = {name: value for name, value in PLAIN.items() if name != "JAX_PROCESS_ID"} | {"JOB_COMPLETION_INDEX": "0"}
    assert find_cluster(indexed).index == 0
    assert find_cluster({"JOB_COMPLETION_INDEX": "3"}) is None


def test_slurm_steps_have_one_address_and_each_its_gpu():
    found = find_cluster(SLURM)
    assert (found.started_by, found.count, found.index, found.devices) == ("SLURM", 8, 5, (1,))
    assert re.fullmatch(r"gpu012:6[1-5]\d{3}", found.address)
    assert find_cluster(SLURM | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}).address == found.address
    assert find_cluster(SLURM | {"SLURM_JOB_ID": "4712"}).address != found.address


def test_gpus_that_a_scheduler_parted_are_not_parted_again():
    assert find_cluster(SLURM | {"CUDA_VISIBLE_DEVICES": "2"}).devices is None
    assert find_cluster(SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}).devices == (2, 3)
    one_a_node = {"SLURM_STEP_TASKS_PER_NODE": "1(x8)", "SLURM_LOCALID": "0"}
    assert find_cluster(SLURM | one_a_node).devices is None


def test_a_batch_script_without_srun_and_a_step_of_one_are_alone():
    assert find_cluster({name: SLURM[name] for name in ("SLURM_JOB_ID", "SLURM_NTASKS")}) is None
    assert find_cluster(SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None
    assert find_cluster(SLURM | {"JAX_NUM_PROCESSES": "1"}) is None


def test_an_address_that_is_said_comes_before_the_one_that_is_found():
    assert find_cluster(SLURM | {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:99"}).address == "10.0.0.1:99"


def test_open_mpi_of_one_host_of_version_4_and_of_version_5():
    one = MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}
    assert find_cluster(one).address.startswith("127.0.0.1:")
    uri = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
    found = find_cluster(MPI | uri)
    assert found.address.startswith("10.96.0.1:") and found.devices == (1,)
    with pytest.raises(UserError, match="Open MPI does not say where process 0 of 4 runs: set JAX_COORDINATOR_ADDRESS"):
        find_cluster(MPI)
    assert find_cluster(MPI | {"JAX_COORDINATOR_ADDRESS": "a:1"}).address == "a:1"


def test_a_slice_of_several_hosts(monkeypatch):
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: object())
    hosts = {"TPU_WORKER_HOSTNAMES": "t-0,t-1", "TPU_WORKER_ID": "1"}
    assert find_cluster(hosts) == Cluster("a TPU slice")
    assert find_cluster(hosts | {"JAX_PLATFORMS": "cpu"}) is None
    assert find_cluster(hosts | {"TPU_WORKER_HOSTNAMES": "t-0"}) is None
    assert find_cluster({"TPU_WORKER_HOSTNAMES": "t-0", "MEGASCALE_NUM_SLICES": "2"}) == Cluster("a TPU slice")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID must be set as well"),
        ({"JAX_COORDINATOR_ADDRESS": ""}, "JAX_COORDINATOR_ADDRESS must be set as well"),
        ({"JAX_COORDINATOR_ADDRESS": "node1"}, "JAX_COORDINATOR_ADDRESS=node1: expected HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": "node1:99999"}, "JAX_COORDINATOR_ADDRESS=node1:99999: expected HOST:PORT"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two: expected a whole number"),
        ({"JAX_PROCESS_ID": "2"}, "process 2 of 2: expected a count"),
    ],
)
def test_half_of_what_is_needed_is_an_error(changes, expected):
    with pytest.raises(UserError, match=re.escape(expected)):
        find_cluster(PLAIN | changes)


def test_names_and_counts_of_slurm():
    assert [first_host(names) for names in ("a", "a,b", "node[001-015],x", "node[001,007-15]", "r[1-2]c")] == [
        *("a", "a", "node001", "node001", "r1c")
    ]
    assert [tasks_of_node("4(x2),2", node) for node in range(3)] == [4, 4, 2]
