"""Eight CPU devices, compiled programs shared by all workers of one session, absl flags parsed.

Programs are compiled quickly rather than well: tests run each a few times on tiny arrays, and compiling them is most
of their time. The numbers stay those of float32. All of it is set before anything imports jax.
"""

import os
import subprocess
import sys
import tempfile

QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)
DEVICES = "--xla_force_host_platform_device_count"


def known(flags: str) -> bool:
    """Whether the XLA at hand knows these flags: it ends the process over one that it does not."""
    words = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(words, env=dict(os.environ, XLA_FLAGS=flags), capture_output=True).returncode == 0


os.environ["JAX_PLATFORMS"] = "cpu"
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers inherit all of it
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{given} {QUICK}".strip() if known(QUICK) else given
    os.environ["HISTOJAX_TEST_XLA_FLAGS"] = os.environ["XLA_FLAGS"]  # for processes that a test starts
    if DEVICES not in given:
        os.environ["XLA_FLAGS"] += f" {DEVICES}=8"
    own_cache = "JAX_COMPILATION_CACHE_DIR" not in os.environ
    if own_cache:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "true"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

import pytest  # noqa: E402
from absl import flags  # noqa: E402

flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl's flags


def pytest_sessionfinish(session):
    """The folder goes with the session that made it."""
    if "PYTEST_XDIST_WORKER" not in os.environ and own_cache:
        import shutil

        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Idle workers take over tests from busy ones: the slow ones, whole runs, come last and in one piece."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)
