"""Train five small demo models, in a few minutes on two cores.

    python -m commands.train_demo_models [FOLDER]        # .models if not given

The Python package index has no models for these tasks. The models learn from sentences made of templates and of facts
in the package countryinfo. Four of them are based on MiniLM. An existing model is skipped, unless the code or data that
it was trained with has changed: a file in its folder contains their hash.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from zipfile import BadZipFile

import torch
from filelock import FileLock
from transformers.utils import logging

from commands.demo_models import (
    fill_mask,
    question_answering,
    text2text_generation,
    text_classification,
    token_classification,
)
from commands.demo_models.training import SEED, Trained
from commands.fetch_models import MODELS, DemoModel, FetchError, fetch

MINILM = MODELS[0]
COUNTRYINFO = DemoModel("countryinfo", "countryinfo", re.compile(r"countryinfo/data/([^/]+\.json)"))
TASKS = {
    "text-classification": text_classification.train,
    "token-classification": token_classification.train,
    "question-answering": question_answering.train,
    "fill-mask": fill_mask.train,
    "text2text-generation": text2text_generation.train,
}
#: File in a model's folder with the hash of what the model was trained with.
STAMP = "trained-with.sha256"


def trained_with(task: str, models: Path) -> str:
    """Return a hash of everything that affects the training.

    That is the code, the libraries, the base model and the facts.
    """
    others = {name.replace("-", "_") for name in TASKS if name != task}
    code = [path for path in sorted(Path(__file__).with_name("demo_models").glob("*.py")) if path.stem not in others]
    folders = [models / MINILM.folder, models / COUNTRYINFO.folder]
    data = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    parts = [f"{package} {version(package)}" for package in ("torch", "transformers", "tokenizers")]
    parts += [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in [Path(__file__), *code, *data]]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def make(task: str, train: Callable[[Path], Trained], models: Path) -> None:
    """Train a task's model and create its folder atomically, unless it is up to date."""
    final, stamp = models / f"demo-{task}", trained_with(task, models)
    if final.exists():
        if (final / STAMP).exists() and (final / STAMP).read_text(encoding="utf-8") == stamp:
            print(f"{final} is there already", flush=True)
            return
        print(f"{final} was trained with something else", flush=True)
    print(f"Training {final}", flush=True)
    start = time.monotonic()
    torch.manual_seed(SEED)
    trained = train(models)
    with tempfile.TemporaryDirectory(prefix=".training-", dir=models) as temporary:
        complete = Path(temporary) / final.name
        trained.model.save_pretrained(complete)
        trained.tokenizer.save_pretrained(complete)
        (complete / STAMP).write_text(stamp, encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        os.rename(complete, final)
    seconds = time.monotonic() - start
    print(f"  {trained.accuracy:.1%} right of {trained.unseen}, after {seconds:.0f} s", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Train all demo models and return the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder is deleted
    models = Path(arguments[0] if arguments else ".models")
    torch.set_num_threads(2)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        models.mkdir(parents=True, exist_ok=True)
        # Wait for another process that trains into the same folder.
        with FileLock(models / ".training.lock"):
            for model in (MINILM, COUNTRYINFO):
                fetch(model, models)
            for task, train in TASKS.items():
                make(task, train, models)
    except KeyboardInterrupt:
        return 130
    except (FetchError, BadZipFile, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
