"""The start of a run in several processes: jax is told who they are, and they get in touch with each other.

Each process sees the devices of its own host (or its share of them), all of them together are those of the run.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator

import jax

from histojax.common.errors import OthersMissing, UserError
from histojax.parallel.agreement import Together
from histojax.parallel.launchers import ADDRESS, COUNT, Cluster, Environment, find_cluster

START_SECONDS = 300.0  # for all processes to be there: a scheduler starts them one after the other
FREE_SECONDS = 20.0  # for an earlier run to end and leave its port
KEY = "histojax/hub"


@contextlib.contextmanager
def started(environment: Environment | None = None) -> Iterator[Together]:
    """The processes of this run, in touch with each other; one alone if nothing says that there are more.

    What goes wrong within the block is told to the others before it goes on. To be called before jax starts on its
    devices. Raises OthersMissing if the others cannot be reached.
    """
    cluster = find_cluster(os.environ if environment is None else environment)
    together = Together() if cluster is None else _start(cluster)
    try:
        _check_count(together)
        yield together
    except BaseException as error:
        if not isinstance(error, UserError):
            together.wait_for_news()
        together.leave(_in_words(error), _exit_code(error))
        raise
    together.close()


def _start(cluster: Cluster) -> Together:
    """Starts jax's own service, and the line between the processes by its help."""
    if cluster.index and cluster.address:
        _wait_for(cluster)
    elif cluster.index == 0 and cluster.address:
        _check_free(cluster)
    known = cluster.count is not None  # a TPU slice tells jax, also where an address is said
    try:
        jax.distributed.initialize(
            cluster.address,
            cluster.count,
            cluster.index,
            cluster.devices,
            cluster_detection_method="deactivate" if known else None,
            initialization_timeout=int(START_SECONDS),
        )
    except (RuntimeError, ValueError, OSError) as error:
        said = " ".join(str(error).split())[:300]
        who = f"process {cluster.index} of {cluster.count} ({cluster.started_by})" if known else cluster.started_by
        raise OthersMissing(
            f"{who}: the processes did not come together at {cluster.address or 'the first host'} ({said}); start all "
            f"of them within {START_SECONDS:.0f} seconds, let that port through, or set {ADDRESS}. {COUNT}=1 runs alone"
        ) from error
    return _connect()


def _wait_for(cluster: Cluster) -> None:
    """Returns when process 0 can be reached; raises OthersMissing if it is not there in time."""
    assert cluster.address
    host, _, port = cluster.address.rpartition(":")
    began, told, reason = time.monotonic(), False, ""
    while time.monotonic() - began < START_SECONDS:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            reason = str(error)
        if not told and time.monotonic() - began > 10:
            told = True
            print(f"process {cluster.index}: waiting for process 0 at {cluster.address} ...", file=sys.stderr)
        time.sleep(0.2)
    raise OthersMissing(
        f"process {cluster.index} of {cluster.count} ({cluster.started_by}): process 0 cannot be reached at "
        f"{cluster.address} ({reason}); look whether it started, let that port through, or set {ADDRESS}=HOST:PORT"
    )


def _check_free(cluster: Cluster) -> None:
    """Raises UserError if process 0 cannot have its port: jax would share it with another run, and mix the two."""
    assert cluster.address
    port, deadline = int(cluster.address.rpartition(":")[2]), time.monotonic() + FREE_SECONDS
    while True:
        try:
            with socket.socket() as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what an earlier run left does not count
                one.bind(("", port))
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"process 0 of {cluster.count} ({cluster.started_by}): port {port} of this host cannot be had "
                    f"({error.strerror}), another run may have it; set {ADDRESS}=HOST:PORT with a free one everywhere"
                ) from error
        time.sleep(0.2)


def _check_count(together: Together) -> None:
    """Raises UserError if the processes were told different numbers of them."""
    said = together.gather(together.count)
    for index, count in enumerate(said):
        if count != said[0]:
            raise UserError(f"process {index} was told that there are {count} processes, process 0 {said[0]} ({COUNT})")


def _connect() -> Together:
    """The line between the processes; jax's service tells where the hub is."""
    from jax._src.distributed import global_state  # no public way to its address and its key-value store

    client, count, index = global_state.client, global_state.num_processes, global_state.process_id
    assert client is not None and global_state.coordinator_address
    if index == 0:
        together, port, word = Together.host(count)
        client.key_value_set(KEY, f"{port} {word}")
    else:
        port, word = client.blocking_key_value_get(KEY, int(1000 * START_SECONDS)).split()
        host = global_state.coordinator_address.rpartition(":")[0].strip("[]")
        together = _join(host, int(port), word, index, count)
    atexit.register(_leave_at_once, together)
    return together


def _join(host: str, port: int, word: str, index: int, count: int) -> Together:
    try:
        return Together.join(host, port, word, index, count)
    except OSError as error:
        raise OthersMissing(
            f"process {index} of {count}: port {port} of {host}, which process 0 chose, cannot be reached ({error}); "
            "the hosts of a run must reach each other on all ports"
        ) from error


def _leave_at_once(together: Together) -> None:
    """Ends the process after a failure. What jax does at an exit would wait for processes that are gone."""
    if together.failed is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(together.failed)


def _in_words(error: BaseException) -> str:
    """One line that says why a process ends."""
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".strip(" :")


def _exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, UserError) else 1
