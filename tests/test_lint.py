"""The linter, the formatter, the type checker and the import rules of pyproject.toml, each as a test."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

COMMANDS = {
    "ruff check": ["-m", "ruff", "check", "--no-cache", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "--no-cache", "."],
    "mypy": ["-m", "mypy", "--cache-dir", "{tmp}"],
    "import-linter": ["-c", "import sys; from importlinter.cli import lint_imports_command as c; c(sys.argv[1:])"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_clean(name, tmp_path):
    command = [word.format(tmp=tmp_path) for word in COMMANDS[name]]
    if name == "import-linter":
        command.append("--no-cache")
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
