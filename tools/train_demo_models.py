"""Train the five small demo models whose like the Python package index does not carry, in a few minutes on two cores.

    python -m tools.train_demo_models [FOLDER]        # .models if not given

They learn from sentences made of templates and of the facts in the package countryinfo, four of them on top of MiniLM.
A model that is there already is skipped.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import torch
from transformers.utils import logging

from tools.demo_models import (
    fill_mask,
    question_answering,
    text2text_generation,
    text_classification,
    token_classification,
)
from tools.demo_models.training import SEED, Trained
from tools.fetch_models import MODELS, FetchError, Model, fetch

MINILM = MODELS[0]
COUNTRYINFO = Model("countryinfo", "countryinfo", re.compile(r"countryinfo/data/([^/]+\.json)"))
TASKS = {
    "text-classification": text_classification.train,
    "token-classification": token_classification.train,
    "question-answering": question_answering.train,
    "fill-mask": fill_mask.train,
    "text2text-generation": text2text_generation.train,
}


def make(task: str, train: Callable[[Path], Trained], models: Path) -> None:
    """Train the task's model, unless it is there. Its folder appears complete or not at all."""
    final = models / f"demo-{task}"
    if final.exists():
        print(f"{final} is there already", flush=True)
        return
    print(f"Training {final}", flush=True)
    start = time.monotonic()
    torch.manual_seed(SEED)
    trained = train(models)
    with tempfile.TemporaryDirectory(prefix=".training-", dir=models) as temporary:
        complete = Path(temporary) / final.name
        trained.model.save_pretrained(complete)
        trained.tokenizer.save_pretrained(complete)
        os.rename(complete, final)
    seconds = time.monotonic() - start
    print(f"  {trained.accuracy:.1%} right of {trained.unseen}, after {seconds:.0f} s", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Train all demo models; the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder goes
    models = Path(arguments[0] if arguments else ".models")
    torch.set_num_threads(2)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
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
