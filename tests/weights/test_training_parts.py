import numpy as np
import pytest
from reading import read_to_train
from safetensors.numpy import save_file
from torch_writer import save, save_legacy
from vit_arrays import GOLDEN, assert_same, head, state_dict

from histojax.common.errors import UserError
from histojax.weights.layouts.dinov2 import META, read_head
from histojax.weights.layouts.hf_vit import HF_DINOV2
from histojax.weights.layouts.timm_vit import TIMM
from histojax.weights.training_parts import read_training_parts, training_files
from histojax.weights.trees import flatten
from histojax.weights.write import write_weights

MODEL = "dinov2_vits14"


def tree_of(model=MODEL, **options):
    return META.read(state_dict(model, **options))[0]


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize("write", [save, save_legacy])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: {"teacher": prefixed("backbone.", t) | prefixed("dino_head.", head())},
        lambda t: {"model": prefixed("module.", t), "epoch": 3},
        lambda t: {
            "model": prefixed("teacher.backbone.", t) | prefixed("student.backbone.", state_dict(MODEL, seed=5))
        },
    ],
)
def test_the_same_backbone_from_every_wrapping(wrap, write, tmp_path):
    tree, report, notes = read_to_train(write(tmp_path / "a.pth", wrap(state_dict(MODEL))))
    assert_same(flatten(tree), flatten(tree_of()))
    assert not report.missing and any("layout meta" in note for note in notes)


@pytest.mark.parametrize("layout", [META, TIMM, HF_DINOV2], ids=lambda layout: layout.name)
def test_the_same_backbone_from_every_layout(layout, tmp_path):
    expected = tree_of()
    save_file(layout.write(expected), tmp_path / "a.safetensors")
    tree, _, notes = read_to_train(tmp_path / "a.safetensors", expected=expected)
    if layout is TIMM:
        assert any("no mask token" in note for note in notes)
        expected["mask_token"] = np.zeros((1, 16), np.float32)
    assert_same(flatten(tree), flatten(expected))


@pytest.mark.parametrize(
    "file, registers", [("timm_hoptimus_like", 4), ("timm_virchow2_like", 4), ("hf_dinov2reg_hibou_like", 4)]
)
def test_published_kinds_come_out_with_a_class_row(file, registers):
    tree, report, _ = read_to_train(GOLDEN / "extractors" / f"{file}.safetensors")
    assert tree["pos_embed"].shape == (1, 17, 32) and tree["register_tokens"].shape[1] == registers
    assert tree["mask_token"].shape == (1, 32) and set(tree["blocks"]["mlp"]) == {"w12", "w3"}
    assert not report.unused and report.shapes == {path: leaf.shape for path, leaf in flatten(tree).items()}


def test_dino_checkpoint_with_heads_and_both_sides():
    path = GOLDEN / "extractors" / "timm_lunit_like_dino_checkpoint.pth"
    teacher, _, notes = read_to_train(path)
    student, _, _ = read_to_train(path, "student")
    assert any("took the teacher" in note for note in notes) and any("left aside" in note for note in notes)
    assert not np.array_equal(teacher["blocks"]["norm1"]["scale"], student["blocks"]["norm1"]["scale"])


def test_wrong_architecture_names_the_file_and_the_keys(tmp_path):
    path = save(tmp_path / "a.pth", state_dict(MODEL))
    with pytest.raises(UserError, match=r"a\.pth: pos_embed has shape \(1, 10, 16\) as pos_embed, .* \(1, 5, 16\)"):
        read_to_train(path, expected=tree_of(grid=2))
    with pytest.raises(UserError, match="register_tokens"):
        read_to_train(path, expected=tree_of("dinov2_vits14_reg4"))


@pytest.mark.parametrize(
    "lost", ["blocks.3.norm1.bias", "pos_embed", "norm.weight", "blocks.10.ls2.gamma", "blocks.0.mlp.fc2.bias"]
)
def test_a_missing_tensor_is_named(lost, tmp_path):
    tensors = state_dict(MODEL)
    del tensors[lost]
    with pytest.raises(UserError, match=rf"a\.pth: .*{lost.split('.')[-1]}"):
        read_to_train(save(tmp_path / "a.pth", tensors))


@pytest.mark.parametrize("lost", [".mlp.fc2.", ".mlp.", ".ls2."])
def test_a_part_missing_in_all_layers_is_noticed(lost, tmp_path):
    tensors = {name: value for name, value in state_dict(MODEL).items() if lost not in name}
    with pytest.raises(UserError, match=r"incomplete|only one of the two"):
        read_to_train(save(tmp_path / "a.pth", tensors))


def test_a_head_file_is_no_backbone(tmp_path):
    with pytest.raises(UserError, match="no backbone"):
        read_to_train(save(tmp_path / "a.pth", {"teacher_dino_head": head()}))


def published_files(folder):
    """The four files a training of Roth, Koch et al. 2024 leaves."""
    parts = {
        "teacher_checkpoint": {
            "teacher": prefixed("backbone.", state_dict(MODEL, seed=1)) | prefixed("dino_head.", head(seed=2))
        },
        "student_checkpoint": {"student": prefixed("backbone.", state_dict(MODEL, seed=3))},
        "student_dino_head_checkpoint": {"student_dino_head": head(seed=4)},
    }
    return [save(folder / f"{name}.pth", value) for name, value in parts.items()]


def test_training_files_are_put_together(tmp_path):
    sides, _ = read_training_parts(*published_files(tmp_path))
    assert {side: set(parts) for side, parts in sides.items()} == {
        "teacher": {"backbone", "dino_head"},
        "student": {"backbone", "dino_head"},
    }
    for side, name, seed in (("teacher", "backbone", 1), ("student", "backbone", 3)):
        assert_same(flatten(sides[side][name]), flatten(tree_of(seed=seed)))
    for side, seed in (("teacher", 2), ("student", 4)):
        assert_same(flatten(sides[side]["dino_head"]), flatten(read_head(head(seed=seed))[0]))


def test_a_full_training_state_has_both_sides(tmp_path):
    model = {}
    for side, seed in (("student", 1), ("teacher", 2)):
        model |= prefixed(f"{side}.backbone.", state_dict(MODEL, seed=seed)) | prefixed(
            f"{side}.dino_head.", head(seed=seed)
        )
        model |= prefixed(f"{side}.ibot_head.", head(seed=seed + 10))
    sides, _ = read_training_parts(save(tmp_path / "model_0000099.rank_0.pth", {"model": model, "iteration": 99}))
    assert set(sides["student"]) == set(sides["teacher"]) == {"backbone", "dino_head", "ibot_head"}
    assert_same(flatten(sides["student"]["backbone"]), flatten(tree_of(seed=1)))
    assert_same(flatten(sides["teacher"]["ibot_head"]), flatten(read_head(head(seed=12))[0]))


def test_a_released_backbone_starts_both_sides(tmp_path):
    sides, notes = read_training_parts(save(tmp_path / "dinov2.pth", state_dict(MODEL)))
    assert_same(flatten(sides["student"]["backbone"]), flatten(sides["teacher"]["backbone"]))
    assert any("used for both" in note for note in notes)


def test_a_file_of_ours_starts_both_sides(tmp_path):
    write_weights(tmp_path / "out", tree_of(), "histojax", {}, heads=4)
    sides, notes = read_training_parts(tmp_path / "out")
    assert_same(flatten(sides["student"]["backbone"]), flatten(tree_of()))
    assert set(sides) == {"student", "teacher"} and any("used for both" in note for note in notes)


def test_two_files_for_one_part_are_refused(tmp_path):
    paths = [
        save(tmp_path / f"{seed}.pth", {"teacher": prefixed("backbone.", state_dict(MODEL, seed=seed))})
        for seed in (1, 2)
    ]
    with pytest.raises(UserError, match="a second teacher backbone with other numbers"):
        read_training_parts(*paths)


def test_the_same_part_in_two_files_is_read_once(tmp_path):
    """The paper's code writes the teacher's head into a file of its own, too."""
    files = published_files(tmp_path)
    files.append(save(tmp_path / "teacher_dino_head_checkpoint.pth", {"teacher_dino_head": head(seed=2)}))
    assert sorted(files) == training_files(tmp_path)
    sides, _ = read_training_parts(*training_files(tmp_path))
    assert_same(flatten(sides["teacher"]["dino_head"]), flatten(read_head(head(seed=2))[0]))


def test_a_folder_without_training_files_is_refused(tmp_path):
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / "__0_0.distcp").touch()
    with pytest.raises(UserError, match=r"checkpoint of torch\.distributed; run `python -m"):
        training_files(tmp_path / "dcp")
    save(tmp_path / "dinov2_vits14_pretrain.pth", state_dict(MODEL))
    with pytest.raises(UserError, match="no teacher_checkpoint or student_checkpoint"):
        training_files(tmp_path)
