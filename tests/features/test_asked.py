"""Under which name features are filed."""

import pytest

from histojax.features.asked import _folder_of


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/mine", "mine"),
        ("runs/mine/export", "mine"),
        ("runs/mine/export/timm", "mine"),
        ("runs/mine/checkpoints/200", "mine_200"),
        ("runs/my run (2)", "my_run_2_"),
    ],
)
def test_a_path_gives_its_own_name(tmp_path, path, name):
    (tmp_path / path).mkdir(parents=True)
    assert _folder_of(str(tmp_path / path), "small_cpu_vit_mini") == name


def test_a_file_and_a_published_name(tmp_path):
    (tmp_path / "best.pth").write_bytes(b"")
    assert _folder_of(str(tmp_path / "best.pth"), "record") == "best"
    assert _folder_of("uni2-h", "uni2_h") == "uni2_h"
