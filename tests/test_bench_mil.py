import json

import bench_mil


def test_one_side_alone(capsys):
    args = ["--bags", "2", "--shortest", "5", "--longest", "9", "--width", "8", "--only", "jax"]
    assert bench_mil.main(args) == 0
    line, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["bags"] == 2 and line["jax_cpu_seconds_100_bags"] >= 0 and last["peak_gib"] > 0
