"""Promise: a new task needs only two files, its specification and its runner."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import requests

from tests.e2e.server import serving
from tests.project import ROOT

_SPEC = """
from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from hf_runtime.contract.parameters import Parameters
from hf_runtime.contract.signature import ANSWER, Signature, TensorSpec
from hf_runtime.contract.task_spec import TaskSpec


class WordCountParameters(Parameters):
    longer_than: int = Field(0, ge=0)


@with_config(ConfigDict(extra="forbid"))
class WordCount(TypedDict):
    words: int


_DOCUMENT = TensorSpec("document", "BYTES", (-1,))
_WORDS = TensorSpec("words", "INT64", (-1, -1))

SPEC = TaskSpec(
    name="word-count",
    instance=str,
    answer=list[WordCount],
    parameters=WordCountParameters,
    example={"instances": ["Count these four words."]},
    signature=Signature((_DOCUMENT,), ((_DOCUMENT.name,),), (ANSWER, _WORDS)),
    kserve_names=("counting",),
)
"""

_RUNNER = """
from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.tasks.word_count import SPEC, WordCountParameters
from runners.engines.rows import BatchLimits, Row
from runners.engines.runner import Job, Runner


class WordCountRunner(Runner):
    spec = SPEC
    parameters_type = WordCountParameters
    example = "A first text."

    def load(self):
        pass

    @property
    def limits(self):
        return BatchLimits(8, 1000)

    def prepare(self, instance, parameters):
        if not isinstance(instance, str):
            raise InvalidRequest("must be a string")
        words = [word for word in instance.split() if len(word) > parameters.longer_than]
        return Job([Row(words, len(words))], None)

    def forward(self, rows):
        return [len(row.inputs) for row in rows]

    def finish(self, job, outputs):
        return [{"words": outputs[0]}]


RUNNER = WordCountRunner
"""


def _project(folder: Path) -> Path:
    """Copy the project and add one more task."""
    for name in ("hf_runtime", "runners", "commands"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("service.py", "requirements.txt", "bentofile.yaml"):
        shutil.copy(ROOT / name, folder)
    (folder / "hf_runtime" / "contract" / "tasks" / "word_count.py").write_text(_SPEC)
    (folder / "runners" / "tasks" / "word_count.py").write_text(_RUNNER)
    return folder


def test_a_task_of_two_files_is_served_by_every_protocol_and_documented(tmp_path: Path) -> None:
    project = _project(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with serving(STORAGE_URI=str(model), TASK="word-count", bento=None, project=project) as server:
        v1 = f"{server.url}/v1/models/model:predict"
        body = {"instances": ["one two three", "four"], "parameters": {"longer_than": 3}}
        assert requests.post(v1, json=body, timeout=60).json() == {"predictions": [[{"words": 1}], [{"words": 1}]]}
        wrong = requests.post(v1, json={"instances": ["a", 7]}, timeout=60)
        assert (wrong.status_code, wrong.json()) == (400, {"error": "instances[1]: must be a string"})
        unknown = requests.post(v1, json={"instances": ["a"], "parameters": {"longer": 1}}, timeout=60)
        assert unknown.json()["error"].startswith("parameters.longer: unknown parameter, did you mean 'longer_than'?")

        assert any(re.search(rf"^curl \S+:{server.port}/v1/models/model:predict", line) for line in server.log)
        assert any("Count these four words." in line for line in server.log)

        metadata = requests.get(f"{server.url}/v2/models/model", timeout=60).json()
        assert [tensor["name"] for tensor in metadata["inputs"]] == ["document"]
        tensor = {"name": "document", "datatype": "BYTES", "shape": [2], "data": ["one two", "three"]}
        infer = requests.post(f"{server.url}/v2/models/model/infer", json={"inputs": [tensor]}, timeout=60).json()
        outputs = {output["name"]: output["data"] for output in infer["outputs"]}
        assert outputs["words"] == [2, 1]

        document = requests.get(f"{server.url}/openapi.json", timeout=60).json()
        predict = document["paths"]["/v1/models/{name}:predict"]["post"]["requestBody"]["content"]["application/json"]
        assert predict["examples"]["word-count"]["value"] == {"instances": ["Count these four words."]}
        answers = document["components"]["schemas"]["Predictions"]["properties"]["predictions"]["items"]
        assert answers["items"] == {"$ref": "#/components/schemas/WordCount"}

    checked = subprocess.run(
        [sys.executable, "-m", "commands.check"],
        cwd=project, env={"STORAGE_URI": str(model), "TASK": "word-count", "PATH": ""}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "word-count" in checked.stdout
