"""What a folder or a zip holds: every kind of image is found, what is left out is counted and said."""

import os
import zipfile

import pytest
from PIL import Image, features
from tile_files import file_bytes, make_folder, picture

from histojax.common.errors import UserError
from histojax.data.find import find_in_folder, is_system
from histojax.data.formats import SUFFIXES
from histojax.data.sources import open_source

KINDS = {".bmp": "BMP", ".webp": "WEBP", ".jp2": "JPEG2000", ".jfif": "JPEG", ".j2c": "JPEG2000", ".GIF": "GIF"}
KINDS |= {".TIFF": "TIFF", ".JPG": "JPEG", ".ppm": "PPM", ".png": "PNG", ".dib": "DIB", ".pcx": "PCX", ".sgi": "SGI"}
KINDS |= {".avif": "AVIF"} if features.check("avif") else {}


def put(folder, files):
    """Writes {path: bytes} below `folder`."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def packed(folder, kind):
    """The folder itself, or a zip of all that is in it."""
    if kind == "folder":
        return folder
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, str(path.relative_to(folder)).replace("/", "\\" if kind == "windows zip" else "/"))
    return folder.with_suffix(".zip")


@pytest.mark.parametrize("kind", ["folder", "zip", "windows zip"])
def test_images_of_every_kind_are_tiles(tmp_path, kind):
    files = {f"{'AB'[i % 2]}/x{i}{end}": file_bytes(picture(i), form) for i, (end, form) in enumerate(KINDS.items())}
    source = open_source(packed(put(tmp_path / "f", files), kind))
    assert source.classes == ("A", "B") and len(source) == len(KINDS)
    for i in range(len(source)):
        assert source.read(i).shape == (32, 32, 3)
    assert source.facts.found.startswith(f"{len(KINDS)} tiles (") and "left out" not in source.facts.found


def test_suffixes_are_those_that_pillow_opens():
    Image.init()
    known = {suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.OPEN}
    assert set(SUFFIXES) <= known | {".avif", ".webp", ".jp2"} and not {".h5", ".eps", ".svs"} & set(SUFFIXES)


CLUTTER = [
    *("@eaDir/t.png/SYNOFILE_THUMB.jpg", "A/@eaDir/a.png", "#recycle/old.png", "$RECYCLE.BIN/x.png"),
    *("__MACOSX/A/._a.png", "A/._a.png", ".ipynb_checkpoints/a-checkpoint.png", "lost+found/z.png", "@tmp/t.png"),
    *("A/.DS_Store", ".Trash-1000/y.png", "System Volume Information/i.png", "B/Thumbs.db"),
    *("@Recycle/x.jpg", ".snapshot/A/a.png", "~snapshot/A/a.png", "@appdata/i.png"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_systems_leave_is_no_class_and_no_tile(tmp_path, kind):
    folder = make_folder(tmp_path / "f", {"A": 2, "B": 1})
    put(folder, dict.fromkeys(CLUTTER, file_bytes(picture(9))))
    source = open_source(packed(folder, kind))
    assert source.classes == ("A", "B") and len(source) == 3
    assert all(is_system(name) for name in CLUTTER)
    assert "hidden or of the system)" in source.facts.found


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_left_out_is_counted_by_reason(tmp_path, kind):
    folder = make_folder(tmp_path / "f", {"A": 2, "B": 2})
    put(folder, {"A/empty.png": b"", "notes.txt": b"x", "labels.csv": b"x", "B/s.svs": b"x", "B/x.heic": b"x"})
    found = open_source(packed(folder, kind)).facts.found
    assert found.startswith("4 tiles (4 .png); left out: 5 (2 not images, 1 ")
    for part in (
        "1 whole slides: cut them into tiles",
        "1 images of a kind that is not read",
        "1 empty",
        "1 .svs",
        "1 .csv",
    ):
        assert part in found


def test_linked_folders_at_any_depth_are_entered_once(tmp_path):
    make_folder(tmp_path / "store", {"x": 2, "y/deep": 1})
    root = tmp_path / "f"
    (root / "data" / "A").mkdir(parents=True)
    (root / "data" / "A" / "far").symlink_to(tmp_path / "store" / "x")
    (root / "data" / "B").symlink_to(tmp_path / "store" / "y")
    (tmp_path / "store" / "y" / "deep" / "again").symlink_to(tmp_path / "store" / "y")
    (root / "up").symlink_to("..")
    (root / "self").symlink_to(".")
    (root / "gone.png").symlink_to("nowhere.png")
    source = open_source(root)
    assert [source.name(i)[len(str(root)) :] for i in range(3)] == [
        "/data/A/far/tile_000.png",
        "/data/A/far/tile_001.png",
        "/data/B/deep/tile_002.png",
    ]
    assert source.classes == ("A", "B")
    assert "3 links to folders seen already" in source.facts.found and "1 broken links" in source.facts.found


def test_a_link_beside_its_folder_adds_nothing(tmp_path):
    folder = make_folder(tmp_path / "f", {"v3/A": 1, "v3/B": 1})
    (folder / "latest").symlink_to("v3")
    source = open_source(folder)
    assert source.classes == ("A", "B") and len(source) == 2


def test_masks_beside_the_images_are_no_class(tmp_path):
    folder = make_folder(tmp_path / "f", {"images": 3, "masks": 3})
    source = open_source(folder)
    assert len(source) == 3 and source.classes == () and "3 masks or overlays" in source.facts.found
    assert open_source(make_folder(tmp_path / "g", {"masks": 1, "faces": 1})).classes == ("faces", "masks")


def test_files_may_begin_with_signs(tmp_path):
    folder = put(
        tmp_path / "f", {"A/@1.png": file_bytes(picture(1)), "B/$2.png": file_bytes(picture(1)), "B/~.png": b"x"}
    )
    assert len(open_source(folder)) == 3


def test_an_interrupted_copy_is_refused(tmp_path):
    folder = make_folder(tmp_path / "f", {"": 2})
    put(folder, {f"e{i}.png": b"" for i in range(3)})
    with pytest.raises(UserError, match="3 of its 5 images are empty files or broken links: was a copy interrupted"):
        open_source(folder)


def test_nothing_found_says_what_is_there(tmp_path):
    put(tmp_path / "f", {"a.svs": b"x", "b.svs": b"x", "c.txt": b"x"})
    with pytest.raises(UserError, match=r"no image in this folder .*left out: 3 \(2 whole slides: cut them into tiles"):
        open_source(tmp_path / "f")
    os.mkfifo(tmp_path / "f" / "pipe.png")
    with pytest.raises(UserError, match="1 pipes or devices"):
        find_in_folder(tmp_path / "f")


def test_members_that_cannot_be_had(tmp_path):
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a.png", "b.png", "c.png", "d.png"):
            archive.writestr(name, file_bytes(picture(1)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", file_bytes(picture(2)))
        archive.filelist[1].flag_bits |= 1  # as encrypted
        archive.filelist[2].compress_type = 9  # deflate64, as Windows compresses large files
        archive.filelist[3].external_attr = 0o120777 << 16  # a link
        archive.filelist[3].create_system = 3
    source = open_source(path)
    assert len(source) == 1 and source.read(0)[0, 0, 0] == 2
    for reason in ("1 encrypted", "1 compressed in a way that is not read", "1 links", "1 named twice"):
        assert reason in source.facts.found


def test_names_in_utf_8_that_the_archive_does_not_call_so(tmp_path):
    folder = make_folder(tmp_path / "f", {"TumXXr": 1, "Fett": 1})
    data = packed(folder, "zip").read_bytes().replace(b"TumXXr", "Tumör".encode())
    (tmp_path / "t.zip").write_bytes(data)
    source = open_source(tmp_path / "t.zip")
    assert source.classes == ("Fett", "Tumör") and source.read(1)[0, 0, 0] == 0


@pytest.mark.parametrize("left", ["store.json", "index.arrow", "tiles/a.arrayrecord"])
def test_pictures_of_a_store_are_never_tiles(tmp_path, left):
    put(tmp_path / "stores", {"one/qc/a.png": b"x", f"one/{left}": b"x"})
    with pytest.raises(UserError, match=r"holds a tile store, .*one"):
        find_in_folder(tmp_path / "stores")
