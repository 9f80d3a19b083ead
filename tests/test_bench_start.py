"""tools/bench_start.py: an empty cache first, then the same one; the readings are made up."""

import json

import bench_start
from bench_common import Spent


def test_cold_then_with_the_cache_then_the_peer(monkeypatch, capsys):
    asked = []

    def reading(words, cache=None):
        asked.append((words[-1], cache))
        if cache:
            cache.mkdir(exist_ok=True)
            (cache / "jit_x-cache").write_text("")
        return Spent(10, 12) if len(asked) == 1 else Spent(2, 3)

    monkeypatch.setattr(bench_start, "reading", reading)
    monkeypatch.setattr(bench_start, "need", lambda *a: None)
    bench_start.main(["--case", "features", "--rounds", "1", "--peer"])
    assert [word for word, _ in asked] == ["features", "features", "peer"]
    assert asked[0][1] == asked[1][1] and asked[2][1] is None
    line = json.loads(capsys.readouterr().out)
    assert line["ratios"] == {"cold": {"wall": 5, "cpu": 4}, "PyTorch": {"wall": 1, "cpu": 1}}
    assert line["programs_kept"] == 1


def test_a_process_is_timed_with_what_it_starts(tmp_path):
    spent = bench_start.reading(["-c", "sum(range(10**6))"], tmp_path)
    assert spent.wall > 0 and 0 < spent.cpu < 60


def test_the_words_are_commands_of_histojax(tmp_path):
    from histojax import config as configs
    from histojax.training.config_flags import read_config, split_leaves

    words = bench_start.words_of("train", tmp_path)[2:]
    changes, rest = split_leaves(words, configs.paper)
    config = read_config(rest[rest.index("--config") + 1], changes, configs.paper)
    assert config.stop_step == 1 and config.eval.max_tiles == 64
