"""What is no slide is refused in words."""

import os
import pickle

import pytest
import tifffile
from dicom_series import write_series
from PIL import Image
from pyramids import picture, write_pyramid

from histojax.slides.slide import BadSlide, open_slide

SMALL = picture(400, 300)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123\n"
FILES = {
    "empty.svs": (b"", "an empty file"),
    "text.svs": (b"Hello, I am no slide.\n", "a text file, not a slide (starts with 'Hello"),
    "lfs.svs": (LFS, "a Git LFS pointer, not the slide: run `git lfs pull`"),
    "page.svs": (b"<!doctype html><title>404</title>", "a web page"),
    "zip.svs": (b"PK\x03\x04\0\0", "a zip archive"),
    "zeros.ndpi": (bytes(4096), "only zero bytes"),
    "a.czi": (b"ZISRAWFILE\0\0\0\0", "Zeiss .czi files are not read"),
    "a.isyntax": (b"\x01\x02\x03", "Philips .isyntax files are not read"),
    "bytes.svs": (b"\x01\x02\x03", "no slide or image that is read"),
    "stub.svs": (b"II*\0\x08\0\0\0", "a damaged TIFF"),
    "stub.png": (b"\x89PNG\r\n\x1a\n\0\0", "a damaged PNG"),
}


def refused(path, **given) -> str:
    with pytest.raises(BadSlide) as error:
        open_slide(path, **given)
    assert error.value.path == str(path) and "\n" not in str(error.value)
    copy = pickle.loads(pickle.dumps(error.value))
    assert (copy.path, copy.reason) == (error.value.path, error.value.reason)
    return error.value.reason


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_slide_is_named(tmp_path, name):
    data, words = FILES[name]
    (tmp_path / name).write_bytes(data)
    assert words in refused(tmp_path / name, mpp=0.5)


def test_what_is_not_there_or_not_allowed(tmp_path, monkeypatch):
    assert refused(tmp_path / "none.svs") == "there is no such file"
    assert "a folder without DICOM files" in refused(tmp_path)
    path = write_pyramid(tmp_path / "a.svs", SMALL)

    def no(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", no)
    assert refused(path) == "cannot be opened (Permission denied)"


def test_a_pipe_is_no_slide(tmp_path):
    os.mkfifo(tmp_path / "a.svs")
    assert refused(tmp_path / "a.svs") == "is no regular file"


def test_a_truncated_slide_says_so(tmp_path):
    path = write_pyramid(tmp_path / "a.svs", SMALL)
    path.write_bytes(path.read_bytes()[:-2000])
    assert "truncated" in refused(path)


@pytest.mark.parametrize(("tag", "value"), [("ImageWidth", 0), ("ImageLength", 1 << 30), ("TileWidth", 1 << 29)])
def test_a_damaged_directory_is_refused(tmp_path, tag, value):
    path = write_pyramid(tmp_path / "a.svs", SMALL, downsamples=(1,))
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[tag].overwrite(value, dtype="I")
    reason = refused(path)
    assert "damaged" in reason or "OpenSlide cannot read it" in reason


def test_metadata_whose_names_are_no_utf8_are_passed_over(tmp_path):
    path = write_pyramid(tmp_path / "a.svs", SMALL)
    path.write_bytes(path.read_bytes().replace(b"AppMag = 40", b"App\xe9ag = 40"))
    with open_slide(path) as slide:
        assert slide.mpp == 0.25


def test_a_dicom_series_is_a_folder_or_any_of_its_files(tmp_path):
    folder = write_series(tmp_path / "case 1", SMALL)
    for path in (folder, folder / "1_2_3_4_1.dcm"):
        with open_slide(path) as slide:
            assert (slide.vendor, slide.mpp, slide.size) == ("dicom", 0.5, (400, 300))
            assert [level.downsample for level in slide.levels] == [1, 4]
            assert abs(slide.tile(32, 16, 128, 0.5).astype(int) - SMALL[16:144, 32:160]).mean() < 4


def test_a_folder_of_several_series_is_ambiguous(tmp_path):
    write_series(tmp_path / "x", SMALL)
    write_series(tmp_path / "x", SMALL, series="1.2.3.5")
    assert "a folder of 2 DICOM series; name one file of each" in refused(tmp_path / "x")


def test_dicom_without_what_openslide_needs(tmp_path):
    folder = write_series(tmp_path / "x", SMALL, downsamples=(1,))
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes().replace(b"\x08\x00\x08\x00CS", b"\x08\x00\x05\x00CS"))
    assert "its header lacks ImageType" in refused(path)


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(SMALL).save(tmp_path / "a.png")
    with open_slide("~/a.png", 1) as slide:
        assert slide.size == (400, 300)
