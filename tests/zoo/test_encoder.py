"""load_encoder on networks of two blocks: a record says which network it is, so a small one can be put in."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from reading import read_tree
from safetensors.numpy import load_file, save_file

from histojax.common.errors import UserError
from histojax.common.files import file_sha256
from histojax.data.preprocess import fit_all
from histojax.data.preprocess import normalise as on_host
from histojax.models.beit import BeitConfig
from histojax.models.network import abstract
from histojax.models.resnet import ResNetConfig
from histojax.models.vit import ViT, ViTConfig
from histojax.weights.containers import open_tensors
from histojax.weights.layouts.timm_vit import TIMM
from histojax.weights.licence import Link
from histojax.weights.pos_embed import resample_grid
from histojax.weights.write import write_weights
from histojax.zoo import program
from histojax.zoo.encoder import Encoder, load_encoder
from histojax.zoo.parameters import run_config, with_pooling, with_positions
from histojax.zoo.program import normalise
from histojax.zoo.record import Preprocess, WeightFile
from histojax.zoo.table import ENCODERS, find

GOLDEN = Path(__file__).parents[1] / "golden" / "extractors"
VIRCHOW = GOLDEN / "timm_virchow2_like.safetensors"  # 4 registers with positions of their own, SwiGLU
HIBOU = GOLDEN / "hf_dinov2reg_hibou_like.safetensors"
RNG = np.random.default_rng(0)
TILES = RNG.integers(0, 256, (5, 64, 64, 3), np.uint8)


def stored(positions="all"):
    """The network of VIRCHOW as its file has it."""
    shapes, _ = TIMM.read(open_tensors(VIRCHOW).tensors)
    hidden = shapes["blocks"]["mlp"]["w3"]["kernel"].shape[1]
    fields = {"image": 56, "registers": 4, "ffn": "swiglu", "hidden": hidden, "mask_token": False}
    return ViTConfig(32, 2, 4, 14, positions=positions, interpolation="antialias", **fields)


def tiny(name="virchow2", side=56, **changes):
    record = find(name)
    rule = dataclasses.replace(record.preprocess, size=side, crop=side)
    return dataclasses.replace(record, network=stored(), preprocess=rule, features=64, **changes)


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(tiny(), VIRCHOW, batch_size=4)


@pytest.fixture(scope="module")
def by_hand():
    """Outputs of the network with the file's own form of positions, on what the host prepares and normalises."""
    record = tiny()
    images = on_host(fit_all(TILES, record.preprocess), record.preprocess)
    tree, _ = TIMM.read(open_tensors(VIRCHOW).tensors)
    network = nnx.merge(abstract(stored())[0], jax.tree.map(jnp.asarray, tree))
    return jax.tree.map(np.asarray, nnx.jit(ViT.__call__)(network, images))


def test_features_are_those_of_the_network(encoder, by_hand):
    features = encoder(TILES)
    wanted = np.concatenate([by_hand["cls"], by_hand["patches"].mean(1)], axis=-1)
    assert features.shape == (5, 64) and features.dtype == np.float32 and encoder.features == 64
    np.testing.assert_allclose(features, wanted, atol=3e-5, rtol=1e-5)


def test_patch_tokens_are_those_of_the_network(encoder, by_hand):
    tokens = encoder.tokens(TILES)
    assert tokens.shape == (5, 16, 32) and tokens.dtype == np.float32  # 4 x 4 patches, no registers
    np.testing.assert_allclose(tokens, by_hand["patches"], atol=3e-5, rtol=1e-5)


def test_one_program_serves_all_batches_and_encoders_of_an_architecture(encoder):
    encoder(TILES[:1])
    compiled = program._compiled()._cache_size()
    every = encoder(np.concatenate([TILES] * 3)[:13])
    np.testing.assert_array_equal(every[:5], encoder(TILES))
    np.testing.assert_array_equal(every[5:10], every[:5])
    np.testing.assert_array_equal(encoder(TILES[:1]), every[:1])
    assert np.abs(load_encoder(tiny(), "random", batch_size=4)(TILES) - every[:5]).max() > 0.1
    assert program._compiled()._cache_size() == compiled


def test_tiles_of_any_sizes_and_none(encoder):
    mixed = [TILES[0], RNG.integers(0, 256, (56, 56, 3), np.uint8), RNG.integers(0, 256, (300, 90, 3), np.uint8)]
    assert encoder(mixed).shape == (3, 64)
    np.testing.assert_array_equal(encoder(mixed)[:1], encoder(TILES[:1]))
    np.testing.assert_array_equal(encoder([Image.fromarray(TILES[0])]), encoder(TILES[:1]))
    assert encoder([]).shape == (0, 64) and encoder.tokens(TILES[:0]).shape == (0, 16, 32)


def test_prepared_tiles_can_be_given_to_the_device(encoder):
    prepared = encoder.prepare(TILES[:4])
    assert prepared.shape == (4, 56, 56, 3) and prepared.dtype == np.uint8
    on_device = encoder.forward(prepared)
    assert isinstance(on_device, jax.Array)
    np.testing.assert_array_equal(on_device, encoder(TILES[:4]))


@pytest.mark.parametrize(("count", "loops"), [(2, 1), (4, 2), (5, 3), (7, 3)])
def test_pieces_change_nothing(encoder, count, loops):
    """`loops`: one over the blocks, one over the pieces, one over the blocks for what is left."""
    prepared = encoder.prepare(np.concatenate([TILES, TILES[:, ::-1]])[:count])
    assert len(prepared) == count
    whole = np.asarray(encoder.forward(prepared))
    pieces = dataclasses.replace(encoder.program(), piece=2 * 56 * 56)
    text = jax.jit(pieces).lower(encoder.parameters, prepared).as_text()
    assert text.count("stablehlo.while") == loops
    np.testing.assert_allclose(pieces.run(encoder.parameters, prepared)[0], whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "images, message",
    [
        (TILES[0], r"must be \(N, height, width, 3\), got \(64, 64, 3\): for a single one images\[None\]"),
        (TILES.astype(np.float32), "uint8"),
        (TILES[..., :1], "uint8 of shape"),
        (Image.fromarray(TILES[0]), r"or a list of such without N, got Image: for a single one \[image\]"),
        (iter(TILES), "got generator|got .*iterator"),
    ],
)
def test_bad_images(encoder, images, message):
    with pytest.raises(UserError, match=message):
        encoder(images)


def test_networks_of_one_size_want_squares():
    rule = Preprocess(56)
    record = tiny(weights=find("uni").weights)
    encoder = load_encoder(dataclasses.replace(record, preprocess=rule), "random")
    with pytest.raises(UserError, match=r"virchow2 takes square tiles: .* 84x56 px, not 56x56"):
        encoder(np.zeros((2, 60, 90, 3), np.uint8))


def test_the_device_normalises_as_the_host():
    for name in ("uni", "sam_vit_b", "beit_paper", "kaiko_vits8"):
        rule = find(name).preprocess
        tiles = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
        ours = jax.jit(normalise, static_argnums=(1, 2, 3))(tiles, rule.scale, rule.mean, rule.std)
        np.testing.assert_allclose(ours, on_host(tiles, rule), atol=1e-6)


def test_provenance(encoder):
    assert encoder.weights == VIRCHOW.name and encoder.weights_sha256 == file_sha256(VIRCHOW)
    assert encoder.preprocess_hash == tiny().preprocess_hash and encoder.preprocess == encoder.record.preprocess
    assert any("layout timm" in note for note in encoder.notes)
    assert isinstance(encoder.network, ViT)


@pytest.mark.parametrize("mode", ["antialias", "offset"])
def test_positions_are_resampled_once_at_load(mode):
    record = tiny(side=84)
    record = dataclasses.replace(record, network=dataclasses.replace(record.network, interpolation=mode))
    encoder = load_encoder(record, VIRCHOW)
    assert encoder.config.grid == 6 and f"position grid 4 x 4 resampled to 6 x 6 ({mode})" in encoder.notes
    stored_grid = load_encoder(tiny(), VIRCHOW).parameters["pos_embed"]
    wanted = resample_grid(np.asarray(stored_grid), 6, mode)
    np.testing.assert_array_equal(encoder.parameters["pos_embed"], wanted)


@pytest.mark.parametrize(
    "whose, mode, registers",
    [
        ("meta", "offset", 0),
        ("meta", "antialias", 4),
        ("hf", "exact", 0),
        ("hf", "antialias", 4),
        ("timm", "antialias", 0),
        ("paper", "exact", 4),
        ("offset", "offset", 4),
    ],
)
def test_whose_positions_are_wanted(whose, mode, registers):
    record = dataclasses.replace(tiny(), network=dataclasses.replace(stored(), registers=registers))
    other = dataclasses.replace(record.network, interpolation="antialias-offset")
    changed = with_positions(dataclasses.replace(record, network=other), whose)
    assert changed.network.interpolation == changed.positions == mode
    assert changed.preprocess_hash != record.preprocess_hash
    same = with_positions(changed, mode)
    assert same == changed


def test_positions_of_a_library_give_its_features():
    record = tiny(side=84)
    usual, meta, paper = (load_encoder(record, VIRCHOW, positions=whose) for whose in (None, "meta", "paper"))
    wanted = resample_grid(np.asarray(load_encoder(tiny(), VIRCHOW).parameters["pos_embed"]), 6, "exact")
    np.testing.assert_array_equal(paper.parameters["pos_embed"], wanted)
    assert usual.preprocess_hash == meta.preprocess_hash == record.preprocess_hash != paper.preprocess_hash
    with pytest.raises(UserError, match="unknown position mode 'keras'; known are meta, hf, timm, paper, exact"):
        load_encoder(record, VIRCHOW, positions="keras")
    with pytest.raises(UserError, match=r"resnet50: positions='hf' is for ViTs: .* \(resnet\) are not resampled"):
        load_encoder("resnet50", "random", positions="hf")


def test_tiles_are_fed_as_they_are(encoder):
    plain = load_encoder(tiny(), VIRCHOW, resize=False, batch_size=4)
    assert plain.preprocess_hash != encoder.preprocess_hash and plain.preprocess.describe().startswith("56 px as they")
    tiles = TILES[:, 4:60, 4:60]
    np.testing.assert_array_equal(plain.prepare(tiles), tiles)
    for wrong, message in ((TILES, "a tile of 64x64 px cannot be fed as it is: the network takes 56 px"),
                           (TILES[:, :56], "virchow2 takes square tiles")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            plain(wrong)
    larger = dataclasses.replace(tiny(), preprocess=Preprocess(256, 56))  # no resize, no crop
    assert load_encoder(larger, VIRCHOW, resize=False).preprocess == dataclasses.replace(
        larger.preprocess, size=56, crop=None, filter="none"
    )


def test_the_papers_beit():
    """Mean of the patches of hidden state 3 of 3, on images divided by 255 twice (golden data2vec_vision)."""
    golden = np.load(GOLDEN / "data2vec_vision.npz")
    network = BeitConfig(32, 3, 4, 16, 80, "shared", norm="tokens", eps=1e-12)
    record = dataclasses.replace(
        find("beit_paper"), network=network, preprocess=dataclasses.replace(find("beit_paper").preprocess, size=80)
    )
    encoder = load_encoder(record, GOLDEN / "data2vec_vision.safetensors", batch_size=2)
    # from the golden input back to grey levels: it is (x / 255**2 - 0.5) / 0.5 up to the levels' rounding
    levels = (np.moveaxis(golden["x_double_rescaled"], 1, -1) * 0.5 + 0.5) * 255**2
    assert levels.min() > -1 and levels.max() < 256
    tiles = np.clip(np.round(levels), 0, 255).astype(np.uint8)
    features = encoder(tiles)
    np.testing.assert_allclose(features, golden["features_double_rescaled"], atol=1e-4)
    right = dataclasses.replace(record, preprocess=dataclasses.replace(record.preprocess, scale=1 / 255))
    for other in (dataclasses.replace(record, pooling="mean"), right):
        changed = load_encoder(other, GOLDEN / "data2vec_vision.safetensors", batch_size=2)(tiles)
        assert np.abs(changed - features).max() > 0.01


def test_resnet_has_no_patch_tokens_and_takes_any_size():
    small = ResNetConfig(blocks=(1, 1), planes=(4, 8), stem=4, classes=7)
    record = dataclasses.replace(find("resnet50"), network=small, preprocess=Preprocess(32), features=32)
    encoder = load_encoder(record, "random", batch_size=2)
    assert encoder.config.classes == 0 and encoder(np.zeros((1, 32, 47, 3), np.uint8)).shape == (1, 32)
    with pytest.raises(UserError, match="resnet50: a ResNet has no patch tokens"):
        encoder.tokens(TILES)


def test_random_weights_are_the_same_everywhere():
    record = tiny()
    one, same, other = (load_encoder(record, "random", seed=seed).parameters for seed in (1, 1, 2))
    leaves = [jax.tree.leaves(tree) for tree in (one, same, other)]
    assert all((a == b).all() for a, b in zip(leaves[0], leaves[1]))
    assert not (one["pos_embed"] == other["pos_embed"]).all()
    assert float(jnp.std(one["blocks"]["attn"]["qkv"]["kernel"])) == pytest.approx(32**-0.5, rel=0.05)
    encoder = load_encoder(record, "random", seed=1)
    assert encoder.weights == "random" and encoder.weights_sha256 == "random-1"


def test_another_pooling(encoder):
    record = with_pooling(tiny(), "cls")
    assert record.features == 32
    assert record.preprocess_hash != tiny().preprocess_hash
    alone = load_encoder(tiny(), VIRCHOW, pooling="cls", batch_size=4)
    np.testing.assert_allclose(alone(TILES), encoder(TILES)[:, :32], atol=1e-6)
    with pytest.raises(UserError, match=r"virchow2: its network \(vit\) has no feature 'unit'"):
        load_encoder(tiny(), VIRCHOW, pooling="unit")
    with pytest.raises(UserError, match="unknown pooling 'max'; known are cls,"):
        load_encoder("uni", "random", pooling="max")


def test_half_precision_stays_close(encoder):
    half = load_encoder(tiny(), VIRCHOW, dtype="bfloat16", batch_size=4)
    features = half(TILES)
    assert features.dtype == np.float32 and half.config.dtype == jnp.bfloat16
    assert 0 < np.abs(features - encoder(TILES)).max() < 0.1


@pytest.mark.parametrize("name", ["uni", "dinov2_vits14_nct", "resnet50"])
def test_commercial_use_is_refused_unless_allowed(name, tmp_path):
    with pytest.raises(UserError, match=rf"{name}: its licence .*commercial use"):
        load_encoder(name, tmp_path / "any.pth", commercial=True)
    with pytest.raises(UserError, match="no such file"):
        load_encoder("dinov2_vits14", tmp_path / "any.pth", commercial=True)


def test_the_licence_is_shown_once(capsys):
    record = tiny(name="h0_mini")
    for _ in range(2):
        load_encoder(record, VIRCHOW)
    load_encoder(dataclasses.replace(record, name="other"), "random")
    assert capsys.readouterr().err == ("h0_mini: licence CC-BY-NC-ND-4.0; commercial use: no, derivatives: no; gated\n")


PERMISSIVE = {"licence": "MIT", "commercial": True, "derivatives": True, "gated": False}


def test_a_card_beside_the_file_is_minded(tmp_path, capsys):
    """UNI's weights stay UNI's, whatever they are loaded as."""
    record = dataclasses.replace(tiny(), name="mine", **PERMISSIVE)
    tree = read_tree(VIRCHOW).tree
    path = write_weights(
        tmp_path / "out", tree, "timm", {}, heads=4, chain=[Link("uni", "CC-BY-NC-ND-4.0", False, False)]
    )
    loaded = load_encoder(record, path, batch_size=4)
    assert [one.what for one in loaded.licences] == ["mine", "uni"]
    said = capsys.readouterr().err
    assert "mine: these weights come from uni: CC-BY-NC-ND-4.0 (commercial use: NO, derivatives: NO)\n" in said
    with pytest.raises(UserError, match=r"model\.safetensors: the licence of uni forbids commercial use"):
        load_encoder(record, path, commercial=True)
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes(path.read_bytes())
    assert load_encoder(record, bare, commercial=True, batch_size=4).licences[0].commercial is True


def test_a_published_file_is_known_by_its_hash(tmp_path, monkeypatch, capsys):
    file = WeightFile("x.safetensors", sha256=file_sha256(VIRCHOW))
    uni = dataclasses.replace(tiny(), name="uni_like", weights=(file,))
    monkeypatch.setitem(ENCODERS, "uni_like", uni)
    own = WeightFile("y.safetensors", sha256="0" * 64)
    mine = dataclasses.replace(tiny(), name="mine_too", weights=(own,), **PERMISSIVE)
    loaded = load_encoder(mine, VIRCHOW, batch_size=4)
    assert [one.what for one in loaded.licences] == ["mine_too", "uni_like"]
    assert any("not the published file of mine_too" in note for note in loaded.notes)
    assert "these weights come from uni_like: CC-BY-NC-ND-4.0" in capsys.readouterr().err
    assert not any("not the published" in note for note in load_encoder(uni, VIRCHOW, batch_size=4).notes)
    again = dataclasses.replace(uni, name="uni_again")  # the same file, run in another way
    assert [one.what for one in load_encoder(again, VIRCHOW, batch_size=4).licences] == ["uni_again"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": -3}, r"batch_size=-3: must be a whole number of images, 1 or more"),
        ({"batch_size": 2.5}, r"batch_size=2\.5"),
        ({"dtype": "foo"}, "dtype='foo': known are float32, bfloat16, float16"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        load_encoder(tiny(), "random", **options)


def test_positions_that_fit_no_grid_name_the_file(tmp_path):
    tensors = load_file(VIRCHOW)
    save_file(tensors | {"pos_embed": np.zeros((1, 200, 32), np.float32)}, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match=r"odd\.safetensors: pos_embed has 200 rows, which fit no square grid"):
        load_encoder(tiny(), tmp_path / "odd.safetensors")


def test_offline_says_what_to_put_where(tmp_path):
    with pytest.raises(UserError) as caught:
        load_encoder("dinov2_vits14", offline=True, cache=tmp_path)
    row = find("dinov2_vits14").weights[0]
    assert row.url in str(caught.value) and str(tmp_path / row.file) in str(caught.value)


def test_the_published_file_is_found_in_the_cache(tmp_path, encoder):
    record = tiny()
    file = dataclasses.replace(record.weights[0], sha256=None)
    target = tmp_path / file.cached
    target.parent.mkdir()
    target.write_bytes(VIRCHOW.read_bytes())
    cached = load_encoder(dataclasses.replace(record, weights=(file,)), offline=True, cache=tmp_path, batch_size=4)
    assert cached.weights_sha256 == encoder.weights_sha256
    wrong = dataclasses.replace(record, weights=(dataclasses.replace(file, sha256="0" * 64),))
    with pytest.raises(UserError, match="expected 0000"):
        load_encoder(wrong, offline=True, cache=tmp_path)


@pytest.mark.parametrize(
    "name, file, message",
    [
        ("virchow2", HIBOU, "another architecture"),
        ("virchow2", GOLDEN / "resnet_imagenet.safetensors", "another architecture"),
        ("virchow2", GOLDEN / "absent.pth", r"absent\.pth: no such file; leave `weights` out to have virchow2"),
        ("no_such_model", None, "no encoder of that name"),
    ],
)
def test_wrong_weights(name, file, message):
    with pytest.raises(UserError, match=message):
        load_encoder(tiny() if name == "virchow2" else name, file)


def test_what_is_run_leaves_out_what_features_do_not_need():
    config = run_config(find("dinov2_vits14_reg"))
    assert (config.image, config.mask_token, config.positions) == (224, False, "cls")
    assert run_config(find("h_optimus_0")).positions == "cls" and run_config(find("resnet50")).classes == 0
    assert run_config(find("sam_vit_b"), "bfloat16").dtype == jnp.bfloat16
    tree = read_tree(HIBOU, family="vit").tree
    small = dataclasses.replace(
        find("hibou_b"),
        network=ViTConfig(
            32, 2, 4, 14, image=56, registers=4, ffn="swiglu", hidden=tree["blocks"]["mlp"]["w3"]["kernel"].shape[1]
        ),
        preprocess=Preprocess(56, 56),
    )
    assert "mask_token" in tree and "mask_token" not in load_encoder(small, HIBOU).parameters


def test_batch_sizes_shrink_with_the_image():
    sizes = {
        name: Encoder(find(name), run_config(find(name)), {}).batch_size for name in ("uni", "sam_vit_b", "retccl")
    }
    assert sizes == {"uni": 32, "sam_vit_b": 1, "retccl": 24}


def test_jax_and_the_library_of_the_hub_are_imported_when_needed():
    program = (
        "import sys, histojax; early = 'jax' in sys.modules; histojax.load_encoder; "
        "sys.exit(early or 'jax' not in sys.modules or 'huggingface_hub' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
    import histojax

    assert histojax.load_encoder is load_encoder
    with pytest.raises(AttributeError, match="no attribute 'load_encoders'"):
        histojax.load_encoders  # noqa: B018
