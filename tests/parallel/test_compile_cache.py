"""Compiled programs are kept from one process to the next; a cache that cannot be used stops nothing."""

import os
import subprocess
import sys
import zlib

import jax
import pytest

from histojax.parallel import compile_cache
from histojax.parallel.compile_cache import keep_compiled

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from histojax.parallel import backend, compile_cache
backend.start_backend()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
compiled = jax.jit(lambda x: jnp.sin(x @ x), donate_argnums=0).lower(np.ones((8, 8), "f4")).compile()
print(compile_cache.programs_read(), compiled.memory_analysis().argument_size_in_bytes)
"""


@pytest.fixture
def unset(monkeypatch, tmp_path):
    """As a user has it who chose nothing; the folder of the cache."""
    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", "jax_enable_compilation_cache")}
    monkeypatch.setenv("HISTOJAX_CACHE", str(tmp_path / "ours"))
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "ours" / "compiled"
    for name, value in before.items():
        jax.config.update(name, value)


def entry(folder, name, content, seconds=0.0):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"jit_{name}-cache"
    path.write_bytes(content)
    os.utime(path, (path.stat().st_mtime + seconds,) * 2)
    return path


def test_the_second_process_reads_what_the_first_compiled(tmp_path):
    environment = dict(os.environ, HISTOJAX_CACHE=str(tmp_path))
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        environment.pop(name, None)
    for read in (b"0", b"1"):
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, check=True)
        assert done.stdout.split() == [read, b"256"], done.stderr


def test_the_folder_is_ours_alone_and_of_this_processor(unset):
    keep_compiled()
    folder = unset / compile_cache._kind()
    assert jax.config.jax_compilation_cache_dir == str(folder) and folder.is_dir()
    assert unset.stat().st_mode & 0o777 == 0o700
    assert jax.__version__ in folder.name and "cpu" in folder.name


@pytest.mark.parametrize("other", ["a folder of the user", "switched off"])
def test_what_the_user_chose_stays(unset, tmp_path, other):
    chosen = str(tmp_path) if other.startswith("a folder") else None
    jax.config.update("jax_compilation_cache_dir", chosen)
    jax.config.update("jax_enable_compilation_cache", chosen is not None)
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == chosen and not unset.exists()


@pytest.mark.parametrize("fault", ["a file is there", "others may write"])
def test_a_folder_that_cannot_be_used_is_said_once(unset, monkeypatch, capsys, fault):
    monkeypatch.setattr(compile_cache, "_said", {"listening"})
    if fault == "a file is there":
        unset.parent.write_text("")
    else:
        unset.mkdir(parents=True)
        unset.chmod(0o777)
    keep_compiled()
    keep_compiled()
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "HISTOJAX_CACHE" in said and str(unset) in said
    assert jax.config.jax_compilation_cache_dir is None


def test_entries_that_were_cut_off_are_removed(unset):
    folder, whole = unset / compile_cache._kind(), zlib.compress(bytes(range(256)) * 9)
    unset.mkdir(mode=0o700, parents=True)
    good, cut, strange = (
        entry(folder, name, data) for name, data in (("a", whole), ("b", whole[:-5]), ("c", b"no such thing"))
    )
    mine = folder / "notes.txt"
    mine.write_text("not ours")
    keep_compiled()
    assert good.exists() and mine.exists() and not cut.exists() and not strange.exists()
    old = entry(folder, "d", whole[:-5], seconds=-60.0)  # older than the last look: not read again
    keep_compiled()
    assert old.exists()


def test_the_oldest_go_when_there_is_too_much(tmp_path):
    paths = [entry(tmp_path / f"jax-{i}", str(i), bytes(10), seconds=-i) for i in range(4)]
    compile_cache._trim(tmp_path, 25)
    assert [path.exists() for path in paths] == [True, True, False, False]
