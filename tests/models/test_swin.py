import re

import jax
import numpy as np
import pytest
from family_cases import GOLDEN, listing, read_listing, rewritten, run_case, worst_excess
from flax import nnx
from parity_cases.backbones import backbone_tensors
from reading import read_tree
from safetensors.numpy import save_file

from histojax.common.errors import UserError
from histojax.models.swin import (
    CTRANSPATH,
    PatchMerging,
    Swin,
    SwinConfig,
    from_windows,
    shift_mask,
    to_windows,
    window_index,
)
from histojax.weights.containers import open_tensors
from histojax.weights.detect import detect_layout

FILE = GOLDEN / "ctranspath_3stage.pth"


def test_golden():
    outputs, golden = run_case("ctranspath_3stage")
    excess = worst_excess(outputs, golden)
    assert len(excess) == 13 and max(excess.values()) < 1, excess


@pytest.mark.parametrize("choice", ["ln_eps_x10", "bn_eps_x100", "gelu_tanh"])
def test_wrong_choices_are_seen(choice):
    outputs, golden = run_case("ctranspath_3stage", only="features", choice=choice)
    assert worst_excess(outputs, golden)["features"] > 1.2


def test_published_names():
    assert read_listing(CTRANSPATH, listing("ctranspath")) == 27_520_038


def test_names_of_newer_timm():
    tensors = listing("ctranspath")
    for stage in (2, 1, 0):
        for leaf in ("reduction.weight", "norm.weight", "norm.bias"):
            value = tensors.pop(f"layers.{stage}.downsample.{leaf}")
            tensors[f"layers.{stage + 1}.downsample.{leaf}"] = value
    assert [layout.name for layout, _ in detect_layout(tensors)] == ["ctranspath-timm"]
    assert read_listing(CTRANSPATH, tensors) == 27_520_038


def renamed_as_timm(tensors):
    """Newer timm counts the merging to the stage that it leads to."""

    def name(old):
        return re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", old)

    return {name(old): tensor for old, tensor in tensors.items()}


def test_three_stages_in_the_names_of_newer_timm(tmp_path):
    """How many stages there are is up to the file; a merging that is lost, or one too many, is named."""
    stored = {name: tensor.numpy() for name, tensor in backbone_tensors(open_tensors(FILE).tensors).items()}
    new = renamed_as_timm(stored)
    save_file(new, tmp_path / "new.safetensors")
    found, wanted = read_tree(tmp_path / "new.safetensors"), read_tree(FILE)
    assert found.layout == "ctranspath-timm"
    jax.tree.map(np.testing.assert_array_equal, found.tree, wanted.tree)
    written = rewritten("swin", new)
    assert set(written) == set(found.report.matched)
    lost = {name: value for name, value in new.items() if "layers.1.downsample" not in name}
    save_file(lost, tmp_path / "lost.safetensors")
    with pytest.raises(UserError, match="patch merging after stage 0 lacks norm/bias, norm/scale, reduction/kernel"):
        read_tree(tmp_path / "lost.safetensors")
    last = {name.replace("layers.2.down", "layers.3.down"): value for name, value in new.items()}
    save_file(new | last, tmp_path / "more.safetensors")
    with pytest.raises(UserError, match="patch merging after stage 2 is one too many"):
        read_tree(tmp_path / "more.safetensors")


def test_plain_swin_is_not_taken_for_ctranspath():
    names = ["patch_embed.proj.weight", "layers.0.blocks.0.norm1.weight", "layers.1.downsample.reduction.weight"]
    assert [layout.name for layout, _ in detect_layout(names)] == ["timm"]
    assert [layout.name for layout, _ in detect_layout([*names, names[2].replace("1", "0")])] == ["microsoft"]


def test_plain_swin_runs():
    config = SwinConfig(8, (2, 2), (1, 2), window=2, image=16, stem="patch")
    model = Swin(config, nnx.Rngs(0))
    out = jax.eval_shape(nnx.jit(lambda m, x: m(x)), model, jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32))
    assert out["stem"].shape == (1, 4, 4, 8) and out["pooled"].shape == (1, 16)


def test_layout_writes_what_it_read():
    tensors = backbone_tensors(open_tensors(FILE).tensors)
    written = rewritten("swin", tensors)
    unread = ("index", "attn_mask", "num_batches_tracked")
    assert all(name.endswith(unread) for name in set(tensors) - set(written))
    for name, value in written.items():
        np.testing.assert_array_equal(value, tensors[name].numpy())


@pytest.mark.parametrize("stage, grid", [(0, 28), (1, 14)])
def test_index_and_mask_equal_the_stored_buffers(stage, grid):
    tensors = backbone_tensors(open_tensors(FILE).tensors)
    mask = tensors[f"layers.{stage}.blocks.1.attn_mask"].numpy()
    np.testing.assert_array_equal(shift_mask((grid, grid), 7, 3), mask)
    index = tensors[f"layers.{stage}.blocks.1.attn.relative_position_index"].numpy()
    np.testing.assert_array_equal(window_index(7), index)


def test_merging_puts_the_column_parity_outermost():
    merge = PatchMerging(1, 1e-5, nnx.Rngs(0))
    merge.norm, merge.reduction = (lambda x: x), (lambda x: x)
    x = jax.numpy.asarray([[[[1.0], [3.0]], [[2.0], [4.0]]]])  # (row, column): (1,0) holds 2, (0,1) holds 3
    np.testing.assert_array_equal(merge(x)[0, 0, 0], [1, 2, 3, 4])


def test_windows_there_and_back():
    x = np.arange(2 * 6 * 4 * 3).reshape(2, 6, 4, 3)
    windows = to_windows(x, 2)
    assert windows.shape == (2, 6, 4, 3)
    np.testing.assert_array_equal(windows[1, 3].reshape(2, 2, 3), x[1, 2:4, 2:4])
    np.testing.assert_array_equal(from_windows(windows, (6, 4), 2), x)
