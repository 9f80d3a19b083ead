"""Where files go, and storage that is no disk."""

import errno
import os

import pytest

from histojax.common.errors import UserError
from histojax.common.files import cache_folder, write_atomic


def refusing(number, only=lambda path: True):
    def refuse(first, *_):
        if only(first):
            raise OSError(number, os.strerror(number))

    return refuse


def test_a_folder_that_cannot_be_flushed_is_no_fault(tmp_path, monkeypatch):
    folders = refusing(errno.EINVAL, lambda handle: os.path.isdir(f"/proc/self/fd/{handle}"))
    monkeypatch.setattr(os, "fsync", folders)
    write_atomic(tmp_path / "a", "whole")
    assert (tmp_path / "a").read_text() == "whole"
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    with pytest.raises(UserError, match="a: cannot be written"):
        write_atomic(tmp_path / "a", "other")


def test_storage_without_renaming_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", refusing(errno.ENOSYS))
    with pytest.raises(UserError, match=r"a: cannot be written .*bucket.*local or shared disk and copy"):
        write_atomic(tmp_path / "a", "new")
    assert not list(tmp_path.iterdir())


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HISTOJAX_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path and cache_folder("here").name == "here"
    monkeypatch.delenv("HISTOJAX_CACHE")
    assert cache_folder().parts[-2:] == (".cache", "histojax")
