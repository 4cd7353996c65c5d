"""Promise: a model's own modules are found before ours; entry processes import no torch."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from transformers import BertModel

from tests.e2e.server import Server, serving
from tests.tiny import bert_config, save, wordpiece_tokenizer

#: Modules that a model may well have and that were once next to the server's own code.
_OWN = ("errors", "settings", "logs", "loading", "batching", "transport", "version", "tools")
#: Names of all modules that the server defines.
_TAKEN = ("service", "hf_runtime", "runners", "commands")

_PIPELINE = f"""
import importlib

def create_pipeline():
    names = {(*_OWN, *_TAKEN)!r}
    whose = {{name: getattr(importlib.import_module(name), "WHOSE", "the server's") for name in names}}
    return lambda text: whose
"""

_CONFIG = """
from transformers import BertConfig

from .settings import WHOSE as SETTINGS

class OwnConfig(BertConfig):
    model_type = "own-bert"
    whose = SETTINGS
"""

_MODELING = """
from transformers import BertModel

from .configuration_own import OwnConfig
from .errors import WHOSE as ERRORS
from .loading import WHOSE as LOADING
from .tools import WHOSE as TOOLS

class OwnModel(BertModel):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        assert (ERRORS, LOADING, TOOLS, self.config.whose) == ("the model's",) * 4
        output = super().forward(*args, **kwargs)
        output["last_hidden_state"] = output["last_hidden_state"] * 0 + 7
        return output
"""


def _write_modules(folder: Path) -> None:
    for name in (*_OWN, *_TAKEN):
        (folder / f"{name}.py").write_text('WHOSE = "the model\'s"\n')


def test_a_custom_pipeline_finds_its_own_modules_except_for_the_servers_four_names(tmp_path: Path) -> None:
    _write_modules(tmp_path)
    (tmp_path / "custom_pipeline.py").write_text(_PIPELINE)
    with serving(STORAGE_URI=str(tmp_path), CUSTOM_PIPELINE="custom_pipeline.py") as server:
        answer = requests.post(f"{server.url}/v1/models/model:predict", json={"instances": ["a"]}, timeout=60)
        assert answer.json() == {
            "predictions": [{**dict.fromkeys(_OWN, "the model's"), **dict.fromkeys(_TAKEN, "the server's")}]
        }


def test_remote_code_finds_its_own_modules_by_relative_imports(tmp_path: Path) -> None:
    tokenizer = wordpiece_tokenizer()
    save(tmp_path, BertModel, bert_config(tokenizer), tokenizer)
    _write_modules(tmp_path)
    (tmp_path / "configuration_own.py").write_text(_CONFIG)
    (tmp_path / "modeling_own.py").write_text(_MODELING)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "own-bert", "architectures": ["OwnModel"],
        "auto_map": {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with serving(STORAGE_URI=str(tmp_path), TASK="feature-extraction", TRUST_REMOTE_CODE="true") as server:
        answer = requests.post(f"{server.url}/v1/models/model:predict", json={"instances": ["a"]}, timeout=60)
        (((vector, *_),),) = answer.json()["predictions"]
        assert set(vector) == {7.0}


#: Writes the names of a process's modules to a pipe on a signal.
_REPORT = """
import os, signal, sys

def report(number, frame):
    with open(os.environ["MODULES_PIPE"], "w") as pipe:
        pipe.write("\\n".join(sys.modules))

signal.signal(signal.SIGUSR1, report)
"""


@pytest.fixture(scope="module")
def reporting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("reporting")
    tokenizer = wordpiece_tokenizer()
    save(folder / "model", BertModel, bert_config(tokenizer), tokenizer)
    (folder / "sitecustomize.py").write_text(_REPORT)
    os.mkfifo(folder / "pipe")
    variables = {"PYTHONPATH": str(folder), "MODULES_PIPE": str(folder / "pipe")}
    with serving(variables, STORAGE_URI=str(folder / "model"), TASK="feature-extraction") as server:
        requests.post(f"{server.url}/v1/models/model:predict", json={"instances": ["a"]}, timeout=60)
        yield server, folder / "pipe"


def _packages(process: psutil.Process, pipe: Path) -> set[str]:
    process.send_signal(signal.SIGUSR1)
    return {name.partition(".")[0] for name in pipe.read_text().split("\n")}


@pytest.mark.xdist_group("modules")
def test_an_entry_process_imports_no_deep_learning_library(reporting: tuple[Server, Path]) -> None:
    server, pipe = reporting
    heavy = {"torch", "transformers", "accelerate", "safetensors", "tokenizers", "numba", "llvmlite"}
    (entry,) = server.entry_processes()
    (runner,) = server.runner_processes()
    assert not heavy & _packages(entry, pipe)
    assert {"torch", "transformers"} <= _packages(runner, pipe)
