"""Where files go."""

from histojax.common.files import cache_folder


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HISTOJAX_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path and cache_folder("here").name == "here"
    monkeypatch.delenv("HISTOJAX_CACHE")
    assert cache_folder().parts[-2:] == (".cache", "histojax")
