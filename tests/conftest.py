"""Eight CPU devices, compiled programs shared by all workers of one session, absl flags parsed.

All of it is set before anything imports jax.
"""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
if "--xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8").strip()
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers inherit the folder
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "true"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

from absl import flags

flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl's flags


def pytest_sessionfinish(session):
    """The folder goes with the session that made it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        import shutil

        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
