"""The tiles that judge a training: which are taken, which are left out and said, when labels count."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny_recipe import tiny_config

from histojax.common.errors import UserError
from histojax.data import open_source
from histojax.data.decode import encode_png
from histojax.data.store import Tile, finish_store, start_store, write_part
from histojax.evaluation import online
from histojax.evaluation.evaluators import evaluators
from histojax.training import results
from histojax.training.evaluation_tiles import open_evaluation, open_training
from histojax.training.plan import parts_in_words


@pytest.fixture
def place(tmp_path):
    """Folder with 24 tiles of two classes and lists of them."""
    for number in range(24):
        shade = np.full((32, 32, 3), 10 * number, np.uint8)
        shade[:8] = 255
        Image.fromarray(shade).save(tmp_path / f"{number:02d}.png")
    return tmp_path


def listed(folder, name, wrong=(), patient=None, numbers=range(24)):
    """A CSV list with classes in turn; the files of the numbers `wrong` do not exist."""
    rows = ["file,label" + (",patient" if patient else "")]
    for number in numbers:
        row = f"{'gone' if number in wrong else ''}{number:02d}.png,{'ab'[number % 2]}"
        rows.append(row + (f",{patient(number)}" if patient else ""))
    (folder / name).write_text("\n".join(rows))
    return str(folder / name)


def evaluation(train, **leaves):
    """The evaluation tiles of a configuration that trains on `train`."""
    config = tiny_config(data__train=train, **{f"eval__{name}": value for name, value in leaves.items()})
    return open_evaluation(config, open_training(config))


def colours(images):
    """The first pixels as features."""
    return images.reshape(len(images), -1)[:, :4].astype(np.float32)


def numbers_of(tiles):
    return [int(i) for batch in tiles.batches() for i in batch["index"] if i >= 0]


@pytest.mark.parametrize("setting", ["data", "test"])
def test_a_set_with_many_unreadable_tiles_is_refused(place, setting):
    good, bad = listed(place, "good.csv"), listed(place, "bad.csv", wrong=range(18))
    with pytest.raises(UserError, match=rf"eval.{setting}=.*bad.csv: 18 of 24 evaluation tiles are unreadable \(75.0%"):
        evaluation(good, **{setting: bad})
    with pytest.raises(
        UserError, match=rf"eval.{setting}=.*none.csv: none of its 24 files exists, the first: gone00.png"
    ):
        evaluation(good, **{setting: listed(place, "none.csv", wrong=range(24))})


@pytest.mark.parametrize("labelled", [True, False])
def test_a_few_unreadable_tiles_are_named_counted_and_left_out(place, caplog, labelled):
    train, source = listed(place, "good.csv"), listed(place, "some.csv", wrong=[5])
    if not labelled:
        text = (place / "some.csv").read_text().replace(",a", ",").replace(",b", ",")
        (place / "some.csv").write_text(text)
    tiles = evaluation(train, data=source)
    assert len(tiles.labels) == 23 and sorted(numbers_of(tiles)) == [i for i in range(24) if i != 5]
    assert all(batch["valid"][batch["index"] >= 0].all() for batch in tiles.batches())
    assert tiles.bad == ((f"{place}/gone05.png", "the file does not exist"),)
    assert "unreadable and left out: 1" in tiles.how
    assert f"evaluation tile left out: {place}/gone05.png: the file does not exist" in caplog.text


def test_labels_follow_the_tiles_that_are_left(place):
    tiles = evaluation(listed(place, "some.csv", wrong=[2, 3, 9]))  # training tiles have a log of their own
    source = open_source(place / "some.csv")
    assert tiles.labels.tolist() == source.labels[numbers_of(tiles)].tolist()
    assert [tiles.count(part) for part in ("fit", "validation", "test")] == [6, 4, 11]
    assert len(tiles.labels) == 21 == len(numbers_of(tiles)) and len(tiles.bad) == 3


def test_classes_of_the_test_set_are_matched_by_name(place):
    train = listed(place, "good.csv")
    (place / "only_b.csv").write_text("file,label\n01.png,b\n03.png,b\n")
    tiles = evaluation(train, test=str(place / "only_b.csv"))
    assert tiles.count("fit") + tiles.count("validation") == 24 and tiles.labels[24:].tolist() == [1, 1]
    assert tiles.parts[24:].tolist() == ["test", "test"]


def test_one_class_is_no_label(place):
    (place / "one.csv").write_text("file,label\n00.png,a\n01.png,a\n02.png,\n")
    tiles = evaluation(str(place / "one.csv"))
    assert not tiles.labelled and tiles.how == "one class only, a" and set(tiles.labels.tolist()) == {-1}
    values = online.evaluate(tiles, colours, evaluators())
    assert set(values) == {"rankme", "eval_spread"}
    with pytest.raises(UserError, match=r"labelled tiles of two classes .*one class only, a"):
        evaluation(str(place / "one.csv"), test=listed(place, "good.csv"))


UNSPLITTABLE = {
    "one tile a class": dict(numbers=range(2)),
    "one patient": dict(patient=lambda number: "P1"),
    "a class a patient": dict(patient=lambda number: f"P{number % 2}"),
}


@pytest.mark.parametrize("how", UNSPLITTABLE.values(), ids=UNSPLITTABLE)
def test_labels_that_cannot_be_split_are_optional_unless_asked_for(place, capsys, how):
    train = listed(place, "odd.csv", **how)
    tiles = evaluation(train)
    assert not tiles.labelled and "labels not used" in tiles.how and len(tiles.labels) == len(open_source(train))
    warning = capsys.readouterr().err
    assert warning.startswith(f"histojax train: warning: data.train={train}: ") and warning.count("\n") == 1
    with pytest.raises(UserError, match=f"eval.data={train}: "):
        evaluation(listed(place, "good.csv"), data=train)


def test_tiles_that_become_unreadable_are_said_and_never_a_crash(place, caplog):
    tiles = evaluation(listed(place, "good.csv"))
    assert "test/knn_balanced_accuracy" in online.evaluate(tiles, colours, evaluators())
    (place / "07.png").unlink()
    assert "test/knn_balanced_accuracy" in online.evaluate(tiles, colours, evaluators())
    assert "1 evaluation tiles cannot be read any more" in caplog.text
    for path in place.glob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match="none of 24 evaluation tiles can be read any more"):
        online.evaluate(tiles, colours, evaluators())


def groups_of(tiles, part):
    return set(tiles.groups[tiles.parts == part])


def test_fit_validation_and_test_share_no_patient(place):
    tiles = evaluation(listed(place, "all.csv", patient=lambda number: f"P{number // 4}"))
    parts = [groups_of(tiles, part) for part in ("fit", "validation", "test")]
    assert [len(part) for part in parts] == [2, 1, 3] and len(set.union(*parts)) == 6
    assert tiles.how == "split by patient" and not tiles.no_best
    assert parts_in_words(tiles) == (
        "fit 8 tiles of 2 groups, validation 4 tiles of 1 group, test 12 tiles of 3 groups"
    )


def test_validation_is_taken_from_the_tiles_to_fit_on_and_test_is_left_whole(place):
    train = listed(place, "train.csv", numbers=range(16), patient=lambda number: f"P{number // 4}")
    test = listed(place, "test.csv", numbers=range(16, 24))
    tiles = evaluation(train, test=test)
    assert [tiles.count(part) for part in ("fit", "validation", "test")] == [12, 4, 8]
    assert not groups_of(tiles, "fit") & groups_of(tiles, "validation") and groups_of(tiles, "test") == {""}
    assert numbers_of(tiles)[16:] == list(range(8))  # of the test list: all of it, in its order
    assert tiles.how == f"test is eval.test={test}, the rest split by patient"


@pytest.mark.parametrize(
    ("patient", "leaves", "why"),
    [
        (lambda number: "P1", {}, "the 16 tiles to fit on, of 1 patients, do not split"),
        (lambda number: f"P{number % 2}", {}, "the 16 tiles to fit on, of 2 patients, do not split"),
        (None, {"validation_share": 0.0}, "eval.validation_share=0"),
    ],
    ids=["one patient", "a class a patient", "none wanted"],
)
def test_tiles_that_do_not_split_once_more_choose_no_checkpoint(place, patient, leaves, why):
    train = listed(place, "train.csv", numbers=range(16), patient=patient)
    tiles = evaluation(train, test=listed(place, "test.csv", numbers=range(16, 24)), **leaves)
    assert [tiles.count(part) for part in ("fit", "validation", "test")] == [16, 0, 8]
    assert tiles.no_best.startswith(why)
    values = online.evaluate(tiles, colours, evaluators())
    assert not [name for name in values if name.startswith("validation")] and "test/knn_balanced_accuracy" in values


def test_every_part_gets_its_share_of_the_tiles(place):
    tiles = evaluation(listed(place, "all.csv"), max_tiles=18)
    assert [tiles.count(part) for part in ("fit", "validation", "test")] == [6, 3, 9]


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("patient", lambda n: f"P{n % 6}", "split by patient"),
        ("case_id", lambda n: f"P{n % 6}" if n else "", "split by patient where known (2 tiles have none)"),
        ("slide_id", lambda n: f"S{n % 6}", "split by slide (patients unknown: one may be in two parts)"),
        ("stain", lambda n: "HE", "split by class (no patients known: tiles of one slide may be in two parts)"),
    ],
)
def test_a_split_is_called_what_it_is(place, column, values, words):
    rows = [f"{n:02d}.png,{'ab'[n % 2]},{values(n // 2)}" for n in range(24)]
    (place / "list.csv").write_text(f"file,label,{column}\n" + "\n".join(rows))
    assert words in evaluation(str(place / "list.csv")).how


def test_what_had_to_be_assumed_is_a_warning(place, capsys):
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (place / "set" / name).mkdir(parents=True)
        for number in range(3):
            (place / "set" / name / f"{number}.png").write_bytes((place / f"{number:02d}.png").read_bytes())
    tiles = evaluation(str(place / "set"))
    assert len(tiles.labels) == 12
    warning = capsys.readouterr().err
    assert warning.startswith(
        f"histojax train: warning: data.train: {place}/set: its parts (train 6, val 6 tiles) are read"
    )


def test_tiles_that_are_made_smaller_than_they_were_cut_are_a_warning(place, capsys):
    def store(name, side, mpp):
        rng = np.random.default_rng(side)
        tiles = [Tile(encode_png(rng.integers(0, 255, (side, side, 3), np.uint8)), slide=s, x=0, y=0) for s in "ab"]
        start_store(place / name, {"settings": {"tile_px": side, "mpp": mpp}})
        write_part(place / name, "part", tiles)
        finish_store(place / name, ["part"])
        return str(place / name)

    fits, large = store("fits", 32, 1.0), store("large", 64, 0.5)
    evaluation(fits)
    assert "um/px" not in capsys.readouterr().err
    evaluation(large)
    said = f"{large}: its tiles of 64 px at 0.5 um/px become 32 px at 1 um/px; --config.data.tile_px=64 takes them as"
    assert said in capsys.readouterr().err
    evaluation(f"{fits},{store('fine', 32, 0.25)}")
    assert "its parts are at 0.25 and 1 um/px, read together" in capsys.readouterr().err


def test_what_is_not_used_is_listed_before_the_first_step(place, tmp_path):
    (place / "notes.txt").write_text("x")
    (place / "broken.png").write_text("x")
    tiles = evaluation(listed(place, "some.csv", wrong=[5]))
    source = open_source(place)
    results.list_unused(SimpleNamespace(workdir=tmp_path, tiles=tiles, source=source))
    assert (tmp_path / "bad_eval_tiles.csv").read_text() == f"path,reason\n{place}/gone05.png,the file does not exist\n"
    assert f"{place}/notes.txt,not images" in (tmp_path / "left_out.csv").read_text()


def test_evaluation_tiles_of_one_colour_are_refused(place):
    (place / "flat").mkdir()
    for number in range(4):
        Image.new("RGB", (32, 32)).save(place / "flat" / f"{number}.png")
    with pytest.raises(UserError, match=r"eval\.data=.*flat: all 4 tiles tried are of one colour"):
        evaluation(listed(place, "good.csv"), data=str(place / "flat"))


def test_tiles_that_are_tested_and_fitted_or_trained_on_are_said(place, capsys):
    train, half = listed(place, "all.csv"), listed(place, "half.csv", numbers=range(12))
    evaluation(train, test=half)
    assert f"12 of its 12 tiles are also in data.train={train}, which is fitted on" in capsys.readouterr().err
    evaluation(train, data=listed(place, "rest.csv", numbers=range(12, 24)), test=half)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"eval.test={half}: 12 of its 12 tiles are also trained on, without their labels")


def test_patients_of_a_set_of_their_own_are_judged_beside_the_tiles(place):
    train = listed(place, "good.csv")
    tiles = evaluation(train, slides=listed(place, "bags.csv", patient=lambda number: f"p{number % 8}"))
    values = online.evaluate(tiles, colours, evaluators(3))
    assert {"slides_auroc", "slides_balanced_accuracy", "validation/knn_balanced_accuracy"} <= values.keys()
    assert "eval.slides: 24 tiles of 8 patients" in tiles.how
    alone = evaluation(train)
    assert alone.fingerprint != tiles.fingerprint and "slides_auroc" not in online.evaluate(
        alone, colours, evaluators(3)
    )
    with pytest.raises(UserError, match=r"eval.slides=.*: its tiles need labels and patients"):
        evaluation(train, slides=train)
    with pytest.raises(UserError, match="patient p0 have different labels"):
        evaluation(train, slides=listed(place, "mixed.csv", patient=lambda number: f"p{number // 4}"))
