"""The job files of tools/cloud, as far as a machine without scheduler and accelerator can check them."""

import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from histojax.parallel.processes import find_cluster
from histojax.training import config_flags

ROOT = Path(__file__).parents[1]
CLOUD = ROOT / "tools" / "cloud"
SCRIPTS = ("train.sbatch", "tpu_slice.sh")


def executable(folder, name, text):
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def run(words, folder, **variables):
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **variables}
    return subprocess.run(words, env=environment, capture_output=True, text=True, cwd=ROOT)


def checked(words):
    """The configuration that a command line of `histojax train` has; raises UserError where a leaf is none."""
    changes, rest = config_flags.split_leaves(words)
    names = dict(word.split("=", 1) for word in rest)
    assert set(names) == {"--config", "--workdir"}
    return config_flags.read_config(str(ROOT / names["--config"]), changes)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_shell_reads_the_scripts(name):
    done = subprocess.run(["bash", "-n", str(CLOUD / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_image_installs_extras_that_there_are():
    text = (CLOUD / "Dockerfile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "ARG EXTRA=cuda" in text and {"cuda", "tpu"} <= set(extras)
    copied = [word for line in text.splitlines() if line.startswith("COPY") for word in line.split()[1:-1]]
    assert copied and all((ROOT / word).exists() for word in copied)


@pytest.mark.parametrize(("name", "resource"), [("job-gpu.yaml", "nvidia.com/gpu"), ("job-tpu.yaml", "google.com/tpu")])
def test_the_pods_of_a_job_find_each_other(name, resource):
    service, job = yaml.safe_load_all((CLOUD / name).read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    assert service["metadata"]["name"] == pod["subdomain"] and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert container["resources"]["limits"][resource] in (4, 8) and container["args"][0] == "train"
    checked(container["args"][1:])
    actions = {rule["action"]: rule["onExitCodes"]["values"] for rule in spec["podFailurePolicy"]["rules"]}
    assert actions == {"FailJob": [2, 3], "Ignore": [143]}
    environment = {one["name"]: one["value"] for one in container["env"]}
    if resource == "nvidia.com/gpu":
        for index in range(spec["completions"]):
            found = find_cluster({**environment, "JOB_COMPLETION_INDEX": str(index)})
            assert (found.count, found.index) == (spec["completions"], index)
            assert found.address.startswith(f"{job['metadata']['name']}-0.{pod['subdomain']}:")


@pytest.mark.parametrize(("code", "requeued"), [(2, False), (143, True)])
def test_a_slurm_job_starts_its_processes_and_goes_on_after_a_signal(tmp_path, code, requeued):
    """A stand-in for srun starts two tasks, whose histojax says which process it takes itself for."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").write_text("")
    executable(tmp_path, "scontrol", '#!/bin/bash\necho "scontrol $*"\n')
    task = 'SLURM_PROCID=$i SLURM_LOCALID=0 SLURM_NODEID=$i SLURM_STEP_NODELIST="gpu[07-08]" SLURM_NTASKS=2 "${@:2}"'
    executable(tmp_path, "srun", f"#!/bin/bash\nfor i in 0 1; do {task} || code=$?; done\nexit ${{code:-0}}\n")
    say = "import os, sys; from histojax.parallel.processes import find_cluster as f; c = f(os.environ); "
    say += f"print(c.started_by, c.index, c.count, c.address.split(':')[0], *sys.argv[1:]); sys.exit({code})"
    executable(tmp_path, "histojax", f'#!/bin/bash\nexec {sys.executable} -c "{say}" "$@"\n')
    words = ["bash", str(CLOUD / "train.sbatch"), "--config", "a b.py"]
    done = run(words, tmp_path, HISTOJAX_ENV=str(tmp_path), SLURM_JOB_ID="7", PYTHONPATH=str(ROOT))
    assert done.returncode == code, done.stderr
    expected = [f"SLURM {i} 2 gpu07 train --config a b.py" for i in (0, 1)]
    assert done.stdout.splitlines() == expected + ["scontrol requeue 7"] * requeued


def test_a_slice_is_rented_used_and_given_back(tmp_path):
    executable(tmp_path, "gcloud", '#!/bin/bash\necho "gcloud $*"\n')
    script, where = str(CLOUD / "tpu_slice.sh"), {"TPU_NAME": "mine", "TPU_ZONE": "z", "TPU_TYPE": "v5p-8"}
    created = run([script, "create"], tmp_path, SPOT="1", **where).stdout
    assert "--accelerator-type=v5p-8 --runtime-version=v2-alpha-tpuv5 --spot" in created
    words = "histojax train --config configs/tcga_vits14.py --workdir".split()
    used = run([script, "run", *words, "/runs/a b"], tmp_path, **where).stdout
    assert "--worker=all" in used and used.rstrip().endswith(r"--workdir /runs/a\ b")
    assert "queued-resources delete mine" in run([script, "delete"], tmp_path, **where).stdout
    wrong = run([script, "create"], tmp_path, **{**where, "TPU_TYPE": "h100"})
    assert wrong.returncode == 2 and "TPU_TYPE=h100: expected" in wrong.stderr
    assert run([script], tmp_path, **where).returncode == 2 and run([script], tmp_path).returncode != 0
