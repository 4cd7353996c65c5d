"""Bentos, built in a BentoML home of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.project import ROOT

#: Part of every planted secret; it must not appear anywhere else.
MARK = b"Zq7"

#: Secrets as operators have them set during a build.
PLANTED = {
    name: f"planted-{number}-{MARK.decode()}"
    for number, name in enumerate(
        ("API_KEYS", "RUNNER_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_SAS_TOKEN", "UV_INDEX_PASSWORD")
    )
}


def build(home: Path, *arguments: str, **variables: str) -> Path:
    """Build a Bento of this repository with these arguments and variables; return its folder."""
    said = _run(home, "-m", "bentoml", "build", "--output", "tag", *arguments, **variables)
    name, version = said.splitlines()[-1].removeprefix("__tag__:").split(":")
    return home / "bentos" / name / version


def import_model(home: Path, model: Path) -> str:
    """Import a model into the store; return its tag."""
    return _run(home, "-m", "commands.import_model", STORAGE_URI=str(model)).splitlines()[-1]


def _run(home: Path, *command: str, **variables: str) -> str:
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "true", **variables}
    run = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.strip()
