"""What must be the same on all hosts of a run before it starts: the folder of the run, the tiles, the program."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from histojax import __version__
from histojax.common.errors import UserError
from histojax.common.files import write_atomic
from histojax.config import leaves
from histojax.evaluation.online import EvalTiles
from histojax.parallel.agreement import Together

MARK = ".seen_by_all"
MAY_DIFFER = ("data.train", "eval.data", "eval.test", "data.workers")  # of hosts; tiles are compared by what they are
LOOK_SECONDS = 30.0  # network file systems show a new file late


def check_same_folder(together: Together, workdir: Path, held: bool) -> None:
    """Raises UserError if a process does not see the run's folder as process 0 does: it must lie on shared storage.

    `held`: process 0 has made the folder, and may write there.
    """
    if together.count == 1 or not held:
        return
    mark = workdir / MARK
    word = together.from_first(secrets.token_hex(8))
    if together.main:
        write_atomic(mark, word)
    together.gather("written")
    seen = together.gather([_reads(mark, word), socket.gethostname()])
    if together.main:
        mark.unlink(missing_ok=True)
    blind = [f"process {index} on {host}" for index, (sees, host) in enumerate(seen) if not sees]
    if blind:
        raise UserError(
            f"{workdir}: {', '.join(blind)} cannot see what process 0 on {seen[0][1]} writes there; --workdir must be "
            "a folder on storage that all hosts share"
        )


def check_same_config(together: Together, config: ConfigDict) -> None:
    """Raises UserError if a process was given another configuration than process 0: each would train its own."""
    mine = {name: repr(value) for name, value in leaves(config) if name not in MAY_DIFFER}
    said = together.gather([socket.gethostname(), mine])
    host, first = said[0]
    for index, (other, theirs) in enumerate(said):
        differs = [f"{name}={theirs.get(name)}, not {first[name]}" for name in first if theirs.get(name) != first[name]]
        if differs:
            raise UserError(
                f"process {index} on {other} has another configuration than process 0 on {host}: "
                f"{'; '.join(differs[:3])}{' ...' * (len(differs) > 3)}; give all the same --config file and flags"
            )


def check_same_everywhere(together: Together, tiles: Mapping[str, Any], evaluated: EvalTiles) -> None:
    """Raises UserError if a process sees other tiles than process 0, or runs another version of histojax or jax."""
    chosen = hashlib.sha256(evaluated.labels.tobytes() + " ".join(map(str, evaluated.parts)).encode())
    mine = {f"{name} tiles": row["fingerprint"] for name, row in tiles.items()}
    mine |= {
        "readable evaluation tiles": chosen.hexdigest(),
        "version of histojax": __version__,
        "version of jax": jax.__version__,
    }
    said = together.gather({"host": socket.gethostname(), **mine})
    for index, other in enumerate(said):
        differs = [name for name in mine if other[name] != said[0][name]]
        if differs:
            raise UserError(
                f"process {index} on {other['host']} has another {differs[0]} than process 0 on {said[0]['host']}: "
                "names, sizes, labels or contents differ; give all hosts the same"
            )


def _reads(mark: Path, word: str) -> bool:
    deadline = time.monotonic() + LOOK_SECONDS
    while time.monotonic() < deadline:
        try:
            os.listdir(mark.parent)  # network file systems look anew
            if mark.read_text() == word:
                return True
        except OSError:
            pass
        time.sleep(0.1)
    return False
