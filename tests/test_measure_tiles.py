"""The tool that measures checks and hashes tells of every set."""

import sys

import measure_tiles


def test_it_tells_what_is_rejected_and_how_far_copies_lie(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["measure_tiles", "synthetic:12", "--tiles", "6"])
    measure_tiles.main()
    shown = capsys.readouterr().out
    assert shown.startswith("synthetic:12: 6 of 12 tiles") and "rejected, blurred by 3.0 px: 100.0%" in shown
    assert "15 pairs as they are" in shown
