"""Checkpoints on disk: bit-exact, the newest and the best kept, whole after a full disk or a kill."""

import errno
import gc
import os
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from orbax.checkpoint._src.serialization import tensorstore_utils

from histojax.common import locks
from histojax.common.errors import UserError
from histojax.parallel.mesh import make_mesh
from histojax.parallel.sharding import Layout
from histojax.ssl.state import TrainState
from histojax.ssl.targets import Centre
from histojax.training.checkpoints import DISCARDED, Checkpoints, newest_step


def state(step, size=300):
    """A state whose numbers cannot be compressed away."""
    weights = {"backbone": {"kernel": jax.random.normal(jax.random.key(step), (size, size))}}
    centre = Centre(jnp.full(3, step, jnp.float32), jnp.zeros(3))
    moments = optax.ScaleByAdamState(jnp.int32(step), weights, weights)
    networks, frozen = {"student": weights, "teacher": weights}, {"backbone": {"bias": jnp.full(3, step + 1.0)}}
    made = TrainState(jnp.int32(step), networks, frozen, moments, {"dino": centre, "ibot": centre})
    return jax.tree.map(jnp.copy, made)  # no two leaves share memory, so all can be donated


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), a, b))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def test_state_and_notes_come_back_bit_for_bit(folder):
    notes = {"iterator": {"next_batch": 3}, "pending": [{"loss": 0.1 + 0.2, "koleo": float("nan")}], "best": {}}
    first = Checkpoints(folder)
    first.save(state(7), notes)
    first.close()
    restored, found = Checkpoints(folder).restore(state(0))
    assert same(restored.as_dict(), state(7).as_dict())
    assert repr(found) == repr(notes)


def test_a_storage_without_file_locks_takes_checkpoints(folder, monkeypatch):
    """Lustre and NFS as some clusters mount them; the writer in C++ is told, since only Python can be imitated."""

    def unsupported(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    first = Checkpoints(folder)
    assert "'mode': 'lockfile'" in str(tensorstore_utils.get_ts_context().spec)
    first.save(state(7), {})
    first.close()
    assert not [path for path in folder.rglob("*") if "lock" in path.name]
    monkeypatch.undo()
    again = Checkpoints(folder)
    assert "lockfile" not in str(tensorstore_utils.get_ts_context().spec)
    assert same(again.restore(state(0))[0].as_dict(), state(7).as_dict())


@pytest.mark.parametrize(("saved", "wanted"), [(1, 8), (8, 1), (8, 2), (2, 8)])
def test_parts_of_a_state_come_back_in_other_parts(folder, saved, wanted):
    def split(made, devices):
        mesh = make_mesh(devices, jax.devices()[:devices])
        return made if mesh is None else jax.device_put(made, Layout(mesh).state(made))

    first = Checkpoints(folder)
    first.save(split(state(3, size=320), saved), {})
    first.close()
    like = split(state(0, size=320), wanted)
    found, _ = Checkpoints(folder).restore(like)
    assert same(found.as_dict(), state(3, size=320).as_dict())
    kernel = found.networks["student"]["backbone"]["kernel"]
    assert kernel.sharding == like.networks["student"]["backbone"]["kernel"].sharding
    assert kernel.addressable_shards[0].data.size == kernel.size // wanted


@pytest.mark.parametrize("change", ["larger", "gone", "more"])
def test_a_state_of_another_shape_is_refused(folder, change):
    first = Checkpoints(folder)
    first.save(state(3), {})
    first.close()
    like = state(0, size=320 if change == "larger" else 300)
    backbone = like.networks["student"]["backbone"]
    if change == "gone":
        backbone.pop("kernel")
    if change == "more":
        backbone["other"] = backbone["kernel"]
    with pytest.raises(UserError, match="damaged"):
        Checkpoints(folder).restore(like)


def test_large_arrays_are_read_before_small_ones(folder, monkeypatch):
    first, read = Checkpoints(folder), []
    first.save(state(3, size=300), {})
    first.close()
    checkpoints = Checkpoints(folder)
    plain = checkpoints._read_some

    def watched(step, abstract, size):
        read.append([x.size for x in jax.tree.leaves(abstract) if x is not ocp.PLACEHOLDER])
        return plain(step, abstract, size)

    monkeypatch.setattr(checkpoints, "_read_some", watched)
    found, _ = checkpoints.restore(state(0, size=300))
    assert same(found.as_dict(), state(3, size=300).as_dict())
    large, small = read
    assert small and max(small) <= max(large) / 2 < min(large)


def test_saving_survives_the_donation_of_the_state_to_the_next_step(folder):
    checkpoints, now = Checkpoints(folder), state(1, size=2000)
    expected = jax.tree.map(np.array, now.as_dict())
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    checkpoints.save(now, {})
    for _ in range(3):
        now = step(now)
    checkpoints.wait()
    assert same(checkpoints.restore(state(0, size=2000))[0].as_dict(), expected)
    checkpoints.close()


def save_all(folder, keep, steps):
    """Saves {step: best step so far}, and returns the steps that are left."""
    checkpoints = Checkpoints(folder, keep)
    for step, best in steps.items():
        checkpoints.save(state(step), {}, best)
    checkpoints.close()
    return checkpoints.steps()


def test_the_newest_and_the_best_are_kept(folder):
    assert save_all(folder, 2, {1: 1, 2: 2, 3: 2, 4: 2, 5: 2}) == [2, 4, 5]


def test_the_best_stays_after_a_resume_until_a_better_one_comes(folder):
    assert save_all(folder, 1, {1: 1, 2: 2, 3: 2, 4: 2}) == [2, 4]
    assert save_all(folder, 1, {5: 2, 6: 2, 7: 2}) == [2, 7]
    assert save_all(folder, 1, {8: 8, 9: 8}) == [8, 9]


def test_without_a_best_one_the_newest_are_kept(folder):
    assert save_all(folder, 2, {1: None, 2: None, 3: None}) == [2, 3]


def test_a_full_disk_leaves_the_checkpoint_before(folder, capfd):
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(state(1), {"note": 1})
    checkpoints.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a write past this fails, as on a full disk
    try:
        with pytest.raises(UserError, match=r"saving a checkpoint failed .*the one of step 1 is whole"):
            checkpoints.save(state(2), {"note": 2})
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(folder) == ["1"]
    assert "Traceback" not in capfd.readouterr().err
    again = Checkpoints(folder, keep=1)
    assert again.restore(state(0))[1] == {"note": 1}
    again.save(state(2), {"note": 2})
    again.close()
    assert again.steps() == [2]


def test_what_orbax_left_half_written_or_half_deleted_is_removed(folder):
    checkpoints = Checkpoints(folder, keep=3)
    for step in (1, 2):
        checkpoints.save(state(step), {})
    checkpoints.close()
    shutil.copytree(folder / "2", folder / "3.orbax-checkpoint-tmp")
    (folder / DISCARDED).mkdir()
    shutil.copytree(folder / "1" / "notes", folder / DISCARDED / "0")
    again = Checkpoints(folder, keep=3)
    assert again.steps() == [1, 2]
    assert sorted(os.listdir(folder)) == ["1", "2"]


@pytest.mark.parametrize("lost", ["state/_METADATA", "notes", "."])
def test_what_is_no_whole_checkpoint_is_moved_aside_and_named(lost, folder, capfd):
    """Nobody knows whose it is, so it is never deleted; a second one of the same step does not replace the first."""
    checkpoints = Checkpoints(folder, keep=3)
    for step in (1, 2):
        checkpoints.save(state(step), {"step": step})
    checkpoints.close()
    for name in ("1", "1.1"):
        if name == "1.1":
            shutil.copytree(folder / "2", folder / "1")
        gone = folder / "1" / lost
        gone.unlink() if gone.is_file() else shutil.rmtree(gone)
        (folder / "1").mkdir(exist_ok=True)
        (folder / "1" / "mine.txt").write_text("mine")
        assert newest_step(folder) == 2
        again = Checkpoints(folder, keep=3)
        aside = folder.with_name("checkpoints.aside") / name
        assert f"{folder}/1: no whole checkpoint, moved to {aside}\n" in capfd.readouterr().err
        assert (aside / "mine.txt").read_text() == "mine"
        assert again.steps() == [2] and again.restore(state(0))[1] == {"step": 2}
        again.close()


def test_a_kill_amid_deletion_leaves_no_half_a_checkpoint(folder, monkeypatch):
    """A checkpoint that is no longer wanted loses its name first, in one rename."""
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(state(1), {})
    checkpoints.wait()
    monkeypatch.setattr("shutil.rmtree", lambda *args, **how: None)
    checkpoints.save(state(2), {})
    checkpoints.wait()
    assert sorted(os.listdir(folder)) == ["2", DISCARDED]
    assert os.listdir(folder / DISCARDED) == ["1"]
    monkeypatch.undo()
    assert Checkpoints(folder).steps() == [2] and os.listdir(folder) == ["2"]


def test_a_device_without_memory_is_not_called_a_full_disk(folder, monkeypatch):
    def fail(*args, **how):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.")

    checkpoints = Checkpoints(folder)
    monkeypatch.setattr(checkpoints._manager, "save", fail)
    with pytest.raises(UserError, match="The device has no memory left, the disk is fine") as error:
        checkpoints.save(state(1), {})
    assert "Make room" not in str(error.value)


def cut_in_half(folder):
    for path in (folder / "state").rglob("d/*"):
        os.truncate(path, path.stat().st_size // 2)


def test_a_damaged_checkpoint_is_named_with_what_to_do(folder, capfd):
    checkpoints = Checkpoints(folder)
    for step in (1, 2):
        checkpoints.save(state(step), {})
    checkpoints.close()
    cut_in_half(folder / "1")
    cut_in_half(folder / "2")
    with pytest.raises(UserError, match=r"checkpoints/2: the checkpoint is damaged .* goes on from step 1$") as error:
        Checkpoints(folder).restore(state(0))
    assert "is not valid for value of size" in str(error.value) and "{" not in str(error.value)
    shutil.rmtree(folder / "2")
    with pytest.raises(
        UserError, match=r"checkpoints/1: .*; move this folder away: there is none before it, so the run"
    ):
        Checkpoints(folder).restore(state(0))
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err


def test_no_folder_means_no_checkpoint(folder):
    assert newest_step(folder) is None
