import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from histojax.common.errors import UserError
from histojax.data import slide_tiles
from histojax.data.decode import BadTile
from histojax.data.pipeline import train_iterator
from histojax.data.sources import open_source
from histojax.data.store import COORDINATES, Tile, finish_store, part_facts, start_store, write_part
from histojax.data.synthetic import SyntheticTissue
from histojax.slides.stain import normaliser

PLACES = [(0, 0), (32, 0), (0, 32), (32, 32)]


def make_slide(path, seed):
    """(96, 128, 3) uint8, written as a plain image."""
    image = np.random.default_rng(seed).integers(0, 255, (96, 128, 3), np.uint8)
    Image.fromarray(image).save(path)
    return image


def make_store(root, plan, names=("a", "b")):
    """(store of the coordinates of these slides, which lie beside it; their images)."""
    start_store(root / "store", plan, COORDINATES)
    images = []
    for seed, name in enumerate(names):
        images.append(make_slide(root / f"{name}.png", seed))
        tiles = [Tile(b"", slide=name, x=x, y=y, label=name) for x, y in PLACES]
        facts = {"path": str(root / f"{name}.png"), "mpp": 0.5, "patient": f"P{name}"}
        write_part(root / "store", name, tiles, facts, coordinates=True)
    finish_store(root / "store", names)
    return root / "store", images


def test_tiles_come_from_the_slides(tmp_path):
    store, images = make_store(tmp_path, {"tile_px": 32, "mpp": 0.5})
    source = open_source(store)
    expected = [image[y : y + 32, x : x + 32] for image in images for x, y in PLACES]
    assert len(source) == 8 and all((source.read(i) == tile).all() for i, tile in enumerate(expected))
    assert source.classes == ("a", "b") and source.labels.tolist() == [0] * 4 + [1] * 4
    assert source.name(5) == f"{tmp_path / 'b.png'} (x=32, y=0)" and source.coords[5].tolist() == [32, 0]
    assert source.groups.used() == ["Pa", "Pb"] and source.facts.group_kind == "patient"
    assert source.facts.found == "8 places of tiles from 2 slides of a store, 32 px at 0.5 um/px"
    assert part_facts(store, "a")["shard_bytes"] == 0 and not list((store / "tiles").iterdir())
    with ThreadPoolExecutor(4) as pool:
        assert all((tile == expected[i % 8]).all() for i, tile in enumerate(pool.map(source.read, [*range(8)] * 4)))
    assert (pickle.loads(pickle.dumps(source)).read(3) == expected[3]).all()
    batch = next(train_iterator(source, 4, 32, seed=0))
    assert all((tile == expected[i]).all() for tile, i in zip(batch["image"], batch["index"]))


def test_coarser_tiles_are_resized(tmp_path):
    store, images = make_store(tmp_path, {"settings": {"tile_px": 16, "mpp": 1.0}}, ["a"])
    mean = images[0][:32, :32].reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(open_source(store).read(0) - mean).max() <= 1


def test_stain_is_normalised_as_the_store_says(tmp_path):
    tissue = SyntheticTissue(1, 64, classes=["tumour"]).read(0)
    store, _ = make_store(tmp_path, {"settings": {"tile_px": 32, "mpp": 0.5, "stain": "macenko"}}, ["a"])
    Image.fromarray(tissue).save(tmp_path / "a.png")
    source = open_source(store)
    assert (source.read(1) == normaliser("macenko")(tissue[:32, 32:])).all()
    assert (source.read(1) != tissue[:32, 32:]).any()


def test_few_slides_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(slide_tiles, "MOST_OPEN", 2)
    store, _ = make_store(tmp_path, {"tile_px": 32, "mpp": 0.5}, "abcd")
    source = open_source(store)
    assert all(source.read(i).shape == (32, 32, 3) for i in range(16))
    assert len(source._slides._idle) == 2


def test_moved_and_broken_slides(tmp_path):
    store, images = make_store(tmp_path, {"tile_px": 32, "mpp": 0.5})
    (tmp_path / "a.png").rename(store / "a.png")
    with pytest.raises(
        UserError, match=r"1 of its 2 slides are not where they were, the first .*a.png: put them back, or"
    ):
        open_source(store)
    slides = store / "slides.csv"
    slides.write_text(slides.read_text().replace(str(tmp_path / "a.png"), "a.png"))
    source = open_source(store)  # a path that is not absolute is relative to the store
    assert (source.read(0) == images[0][:32, :32]).all()
    slides.write_text("\ufeff" + slides.read_text().replace(",", ";"))  # as a spreadsheet saves it
    assert (open_source(store).read(4) == images[1][:32, :32]).all()
    (tmp_path / "b.png").write_text("no slide any more")
    with pytest.raises(BadTile, match=r"b.png \(x=0, y=0\): a text file, not a slide"):
        open_source(store).read(4)
    slides.write_text(slides.read_text().replace("b;", "c;"))
    with pytest.raises(UserError, match="no row with a path for the slide b"):
        open_source(store)


def test_another_slide_of_the_same_name_is_refused(tmp_path):
    start_store(tmp_path / "store", {"tile_px": 32, "mpp": 0.5}, COORDINATES)
    make_slide(tmp_path / "a.png", 0)
    facts = {"path": "../a.png", "mpp": 0.5, "file_bytes": (tmp_path / "a.png").stat().st_size}
    write_part(tmp_path / "store", "a", [Tile(b"", slide="a", x=0, y=0)], facts, coordinates=True)
    finish_store(tmp_path / "store", ["a"])
    assert len(open_source(tmp_path / "store")) == 1
    Image.new("RGB", (128, 96)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: has \d+ bytes and had \d+ when .* another slide"):
        open_source(tmp_path / "store")


def test_what_makes_a_tile_is_part_of_the_fingerprint(tmp_path):
    prints = []
    for number, plan in enumerate([{"mpp": 0.5}, {"mpp": 1.0}, {"mpp": 0.5, "note": "x"}]):
        (tmp_path / str(number)).mkdir()
        prints.append(open_source(make_store(tmp_path / str(number), {"tile_px": 32, **plan})[0]).fingerprint())
    assert prints[0] == prints[2] != prints[1]
    (tmp_path / "4").mkdir()
    with pytest.raises(UserError, match="needs mpp in its plan"):
        open_source(make_store(tmp_path / "4", {"tile_px": 32})[0])
