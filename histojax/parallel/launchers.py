"""Who started this process beside others: SLURM, Open MPI, a TPU slice, or plain variables; no jax here."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from histojax.common.errors import UserError

Environment = Mapping[str, str]
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Which process of a run this one is."""

    started_by: str
    address: str | None = None  # host:port of process 0; None: jax asks the machine's metadata for all of these
    count: int | None = None
    index: int | None = None
    devices: tuple[int, ...] | None = None  # of the host's GPUs, those of this process; None: all that it sees


def find_cluster(environment: Environment) -> Cluster | None:
    """Who started this process beside others; None if it is alone. Raises UserError for half of what is needed.

    What the person says (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID) comes before what is found, and
    JAX_NUM_PROCESSES=1 means alone whatever is found.
    """
    if environment.get(COUNT) == "1":
        return None
    for find in FINDERS:
        found = find(environment)
        if found is not None:
            if found.count == 1:
                return None
            _check(found)
            return dataclasses.replace(found, address=environment.get(ADDRESS) or found.address)
    return None


def _by_variables(e: Environment) -> Cluster | None:
    """Plain variables; a Kubernetes Job of completionMode Indexed gives the index."""
    said = {ADDRESS: e.get(ADDRESS), COUNT: e.get(COUNT), INDEX: e.get(INDEX) or e.get("JOB_COMPLETION_INDEX")}
    if not (e.get(COUNT) or e.get(INDEX)):  # the address alone only moves what is found
        return None
    missing = [name for name, value in said.items() if not value]
    if missing:
        present = ", ".join(f"{name}={value}" for name, value in said.items() if value)
        raise UserError(f"{present}: {' and '.join(missing)} must be set as well, in every process")
    return Cluster("variables", said[ADDRESS], _number(COUNT, said[COUNT]), _number(INDEX, said[INDEX]))


def _by_slurm(e: Environment) -> Cluster | None:
    """A step of srun. In a script of sbatch that calls python without srun there is one process."""
    if not all(name in e for name in ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")):
        return None
    count = _number("SLURM_NTASKS", e.get("SLURM_STEP_NUM_TASKS") or e.get("SLURM_NTASKS"))
    host = first_host(e["SLURM_STEP_NODELIST"])
    address = f"{host}:{_port(e['SLURM_JOB_ID'], e.get('SLURM_STEP_ID', '0'))}"
    index, local = _number("SLURM_PROCID", e["SLURM_PROCID"]), _number("SLURM_LOCALID", e["SLURM_LOCALID"])
    here = tasks_of_node(e.get("SLURM_STEP_TASKS_PER_NODE", "1"), _number("SLURM_NODEID", e.get("SLURM_NODEID", "0")))
    return Cluster("SLURM", address, count, index, _share(e, local, here))


def _by_open_mpi(e: Environment) -> Cluster | None:
    """A process of mpirun. Of several hosts version 4 says where mpirun runs, version 5 nothing."""
    if "OMPI_COMM_WORLD_SIZE" not in e or "OMPI_COMM_WORLD_RANK" not in e:
        return None
    names = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")
    count, index, local, here = (_number(name, e.get(name, "0")) for name in names)
    uri = e.get("OMPI_MCA_orte_hnp_uri", "")
    found = re.search(r"tcp://([^,:]+)|tcp6://\[([^,\]]+)", uri)
    job = e.get("PMIX_NAMESPACE") or e.get("OMPI_MCA_ess_base_jobid") or uri
    if here == count:
        address: str | None = f"127.0.0.1:{_port(job)}"
    elif found:
        address = f"{found[1] or found[2]}:{_port(job)}"
    else:
        address = e.get(ADDRESS)
    return Cluster("Open MPI", address, count, index, _share(e, local, here))


def _by_tpu(e: Environment) -> Cluster | None:
    """A host of a TPU slice, or of several slices; GKE says it in variables, a TPU VM in its metadata."""
    if e.get("JAX_PLATFORMS", "tpu").split(",")[0] not in ("tpu", "") or importlib.util.find_spec("libtpu") is None:
        return None
    hosts = e.get("TPU_PROCESS_ADDRESSES") or e.get("TPU_WORKER_HOSTNAMES") or ""
    slices = int(e.get("MEGASCALE_NUM_SLICES") or 1)
    if hosts:
        return Cluster("a TPU slice") if "," in hosts or slices > 1 else None
    chips = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    return Cluster("a TPU slice") if chips and "TPU_SKIP_MDS_QUERY" not in e else None


FINDERS: tuple[Callable[[Environment], Cluster | None], ...] = (_by_variables, _by_slurm, _by_open_mpi, _by_tpu)


def _check(found: Cluster) -> None:
    """Raises UserError for numbers that do not fit each other, and an address that is none."""
    if found.count is None or found.index is None:
        return
    if not 0 <= found.index < found.count:
        expected = "expected a count of at least 1 and an index from 0 to count - 1"
        raise UserError(f"{found.started_by}: process {found.index} of {found.count}: {expected}")
    if found.address is None:
        raise UserError(
            f"{found.started_by} does not say where process 0 of {found.count} runs: set {ADDRESS}=HOST:PORT, the same "
            "in every process (HOST is that of process 0, PORT any free one there)"
        )
    port = re.fullmatch(r".+:(\d{1,5})", found.address)
    if not port or not 0 < int(port[1]) < 65536:
        raise UserError(f"{ADDRESS}={found.address}: expected HOST:PORT, e.g. node1:12345 (a port is 1 to 65535)")


def first_host(names: str) -> str:
    """The first host of SLURM's list: "node001" of "node[001-015,020],other"."""
    prefix, bracket, rest = names.partition("[")
    if not bracket or "," in prefix:
        return names.partition(",")[0]
    number = re.split(r"[,\-\]]", rest)[0]
    return prefix + number + re.sub(r"\[.*", "", rest.partition("]")[2].partition(",")[0])


def tasks_of_node(counts: str, node: int) -> int:
    """Processes on a node by SLURM's counts: 4 on each of the first two of "4(x2),2", 2 on the third."""
    each: list[int] = []
    for part in counts.split(","):
        number, _, times = part.partition("(x")
        each += [int(number)] * int(times.rstrip(")") or 1)
    return each[node] if node < len(each) else each[-1]


def _share(e: Environment, local: int, here: int) -> tuple[int, ...] | None:
    """The GPUs of a process that is one of several on its host; None: all that it sees, which may be one already."""
    seen = [one for one in e.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    if here < 2 or len(seen) == 1:
        return None
    each = len(seen) // here if seen and len(seen) % here == 0 else 1
    return tuple(range(local * each, (local + 1) * each))


def _number(name: str, value: str | None) -> int:
    try:
        return int(value or "")
    except ValueError:
        raise UserError(f"{name}={value}: expected a whole number") from None


def _port(*names: str) -> int:
    """A port that all processes of a job find, and another job most likely not."""
    return 61440 + zlib.crc32(" ".join(names).encode()) % 4096
