import pytest
from tile_files import file_bytes, picture

from histojax.common.errors import UserError
from histojax.data.sources import open_source

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Folder of a prepared data set: 6 PNG tiles of two classes."""
    import io

    class Tiles(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Image(shape=(None, None, 3))
            label = tfds.features.ClassLabel(names=["tumour", "adipose"])
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(dict(image=image, label=label))
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(6):
                yield i, dict(image=io.BytesIO(file_bytes(picture(i))), label=i % 2)

    builder = Tiles(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_path)


def test_prepared_folder_with_split_and_slice(prepared):
    source = open_source(f"tfds:{prepared}:train")
    assert source.classes == ("adipose", "tumour") and len(source) == 6
    assert sorted(int(source.read(i)[0, 0, 0]) for i in range(6)) == list(range(6))
    assert all(source.labels[i] == (int(source.read(i)[0, 0, 0]) % 2 == 0) for i in range(6))
    assert len(open_source(f"tfds:{prepared}:train[:50%]")) == 3
    assert len(source.fingerprint()) == 64


@pytest.mark.parametrize("split", ["nosuchsplit"])
def test_unknown_split_is_a_user_error(prepared, split):
    with pytest.raises(UserError, match="cannot be opened"):
        open_source(f"tfds:{prepared}:{split}")


def test_unknown_or_unprepared_data_set_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"tfds:no_such_tiles:train: cannot be opened .*download_and_prepare"):
        open_source("tfds:no_such_tiles:train", data_dir=str(tmp_path))
