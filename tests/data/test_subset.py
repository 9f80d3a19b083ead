import pickle

import numpy as np
import pytest
from tile_files import make_folder

from histojax.common.errors import UserError
from histojax.data.sources import open_source
from histojax.data.store import write_store
from histojax.data.subset import Subset, write_subset
from histojax.data.synthetic import SyntheticTissue
from histojax.data.tiles import count_shared


def test_a_list_of_kept_tiles_is_a_source(tmp_path):
    whole = SyntheticTissue(20, 24)
    write_store(whole, tmp_path / "s")
    store, kept = open_source(tmp_path / "s"), np.array([0, 1, 2, 7, 9, 10, 19])
    folder = open_source(make_folder(tmp_path / "f", {"a": 2, "b": 1}))
    write_subset(tmp_path / "one.csv", [(str(tmp_path / "s"), store, kept)])
    write_subset(
        tmp_path / "two.csv", [(str(tmp_path / "s"), store, kept), (str(tmp_path / "f"), folder, np.array([2]))]
    )
    one, two = open_source(tmp_path / "one.csv"), open_source(tmp_path / "two.csv")
    assert len((tmp_path / "one.csv").read_text().splitlines()) == 5  # four runs
    assert all((one.read(j) == whole.read(i)).all() for j, i in enumerate(kept.tolist()))
    assert one.groups.tolist() == [whole.groups[i] for i in kept] and one.facts.group_kind == "patient"
    assert [one.classes[i] for i in one.labels] == [whole.classes[whole.labels[i]] for i in kept]
    assert one.facts.found == f"7 of the 20 tiles of {tmp_path / 's'}, kept by one.csv"
    assert len(two) == 8 and (two.read(7) == folder.read(2)).all() and two.name(7) == folder.name(2)
    assert one.fingerprint() != Subset(store, kept[:-1]).fingerprint()
    assert count_shared(one, store) == 7 and count_shared(one, folder) == 0
    assert pickle.loads(pickle.dumps(one)).name(3) == one.name(3)


def test_lists_that_fit_no_more(tmp_path):
    folder = make_folder(tmp_path / "f", {"a": 4})
    write_subset(tmp_path / "k.csv", [(str(folder), open_source(folder), np.arange(3))])
    good = (tmp_path / "k.csv").read_text()
    for text, words in (
        (good.replace(",0,2", ",0,9"), "beyond its 4 tiles"),
        (good.replace(",0,2", ",0,x"), "line 2 is damaged"),
        (good.splitlines()[0] + "\n", "keeps no tile"),
    ):
        (tmp_path / "k.csv").write_text(text)
        with pytest.raises(UserError, match=words):
            open_source(tmp_path / "k.csv")
    (tmp_path / "k.csv").write_text(good)
    assert len(open_source(tmp_path / "k.csv")) == 3
    (folder / "a" / "tile_003.png").unlink()
    with pytest.raises(UserError, match=r"f is not what it was .*run the audit again"):
        open_source(tmp_path / "k.csv")
