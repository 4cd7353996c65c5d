"""Examples of README and docs/, sorted by how each is tested.

An example is run, checked, or listed with the reason why it is not run.

Also compares an answer with the one that a page prints.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

from tests.project import ROOT

#: Text of README.md and of every page of docs/, by path from the project's folder.
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
README = PAGES["README.md"]

#: The virtual environment comes first, as README has it activated.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


@dataclass(frozen=True)
class Example:
    """Example that a reader can run or look at.

    Attributes:
        language: the language named by its block, or an empty string.
        code: one command of a shell, or all of another block.
        printed: the output that the comments after the code show; `…` stands for anything.
    """

    language: str
    code: str
    printed: str = ""

    @property
    def model(self) -> str | None:
        """Name of the model that the example requests."""
        named = re.search(r"/models/([\w.-]+)|\bmodel\"?[=:] ?\"([\w.-]+)\"", self.code)
        return named and (named[1] or named[2])

    @property
    def body(self) -> str:
        """Body that curl sends."""
        words = shlex.split(self.code)
        return words[words.index("-d") + 1]

    def run(self, port: int | None = None, variables: Mapping[str, str] | None = None) -> str:
        """Run the example with another port and return its output.

        Raises:
            AssertionError: it failed; its output is shown.
        """
        code = self.code.replace("localhost:3000", f"localhost:{port}")
        command = ["bash", "-c", code] if self.language == "bash" else [sys.executable, "-c", code]
        environment = {"PATH": PATH, **(variables or {})}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
        return done.stdout


def parse_examples(text: str) -> list[Example]:
    """Split bash blocks into commands and return other blocks unchanged."""
    found: list[Example] = []
    for token in MarkdownIt().parse(text):
        if token.type in ("fence", "code_block"):
            language = token.info.strip()
            if language == "bash":
                found += _commands(token.content)
            else:
                found.append(_block(language, token.content))
    return found


def _commands(block: str) -> list[Example]:
    commands: list[tuple[str, list[str]]] = []
    for line in block.replace("\\\n", "\0").splitlines():
        if line.startswith("#"):
            commands[-1][1].append(line)
        elif line:
            # A comment after a command is for readers.
            commands.append((re.sub(r"\s+# [^'\"]*$", "", line).replace("\0", "\\\n"), []))
    return [Example("bash", code, _printed(comments)) for code, comments in commands]


def _block(language: str, code: str) -> Example:
    lines = code.splitlines(keepends=True)
    comments: list[str] = []
    while language == "python" and lines[-1].startswith("#"):
        comments.insert(0, lines.pop().rstrip("\n"))
    return Example(language, "".join(lines), _printed(comments))


def _printed(comments: Sequence[str]) -> str:
    """Collect the output from comments; an indented line continues the one before it."""
    return "\n".join(comment.removeprefix("# ") for comment in comments).replace("\n  ", " ")


#: Each example once, in the order of the pages; README repeats some of docs/.
EXAMPLES = list(dict.fromkeys(example for text in PAGES.values() for example in parse_examples(text)))


def read_model_locations(config: str) -> Mapping[str, str]:
    """Return the models' locations of a configuration by the names under which they are served."""
    documents = yaml.safe_load_all((ROOT / config).read_text(encoding="utf-8"))
    return {each["metadata"]["name"]: each["spec"]["predictor"]["huggingface"]["storageUri"] for each in documents}


#: Commands after which requests are sent, and the models that each serves.
QUICKSTART, DEMO = "make serve", "make serve RUNTIME_CONFIG=configs/demo.yaml"
MODELS_OF = {
    QUICKSTART: read_model_locations("configs/quickstart.yaml"),
    DEMO: read_model_locations("configs/demo.yaml"),
}

#: Requests to the servers of these commands.
REQUESTS = [
    each
    for each in EXAMPLES
    if each.code.startswith("curl ") or (each.language == "python" and "localhost:3000" in each.code)
]

#: InferenceServices; tests/test_readme.py reads them as settings.
SERVICES = [each for each in EXAMPLES if each.language == "yaml" and "kind: InferenceService" in each.code]

#: Commands that fetch models from a hub; a hub on this machine has small models under their names.
FROM_HUB = {
    "make serve STORAGE_URI=hf://distilbert/distilbert-base-uncased-finetuned-sst-2-english TASK=text-classification",
    "RUNTIME_CONFIG=configs/ner-model.yaml bentoml serve",
    "bentoml serve --arg config=configs/ner-model.yaml",
    "python -m commands.check configs/ner-model.yaml",
}

#: Reasons why the others are not run, by the beginning of the example.
NOT_RUN = {
    "make test": "it is what runs the tests",
    "make build": "tests/package/test_bento.py builds a Bento, in a home of its own",
    "bentoml serve hugging_face_runtime:latest": "tests/package/test_bento.py serves a Bento from an empty folder",
    "bentoml containerize": "needs Docker; `make image-test` has the image built by buildah",
    "docker run -p 3000:3000 -e STORAGE_URI=hf": "needs Docker; `make image-test` runs the image",
    "docker run -p 3000:3000 -e STORAGE_URI=… --read-only": "needs Docker; `make image-test` runs the image so",
    "STORAGE_URI=hf://owner/model TASK=… docker compose": "needs Docker; tests/deployment/test_compose.py",
    "bentoml secret create runner-key": "needs BentoCloud; tests/deployment/test_bentocloud.py",
    "bentoml deploy -f deployment/bentocloud.yaml": "needs BentoCloud; tests/deployment/test_bentocloud.py",
    "kubectl create secret generic api-keys": "needs a cluster; tests/deployment/test_kubernetes.py",
    "kubectl create secret generic hf-token": "needs a cluster; tests/deployment/test_kubernetes.py",
    "kubectl apply -k deployment/kubernetes": "needs a cluster; tests/deployment/test_kubernetes.py",
    "kubectl apply -f deployment/kserve": "needs a cluster; tests/deployment/test_kserve.py",
    "spec:": "needs a cluster; tests/test_readme.py finds it in the example that tests/deployment/test_kserve.py reads",
    "2026-11-24T09:12:31+0000 [INFO]": "lines of a log; tests/e2e/test_logs.py, tests/hf_runtime/observability",
    "POST /v1/models/{name}:predict ": "spans of a trace; tests/e2e/test_traces.py",
    "client ──": "a drawing of the modules",
    "python -m commands.precisions configs/ner-model.yaml": "takes minutes; tests/commands/test_precisions.py",
    "from transformers import pipeline": "code of a model; tests/runners/tasks/test_custom_pipeline.py runs such files",
}

_NUMBER = r"-?\d++(?:\.\d++)?(?:[eE][+-]?\d++)?"
_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"|(?P<fraction>-?\d+\.\d+(?:[eE][+-]?\d+)?)|… (?P<count>\d+) numbers|…|[\w-]+|\S', re.ASCII
)


def assert_matches_page(printed: str, said: str, tolerance: float) -> None:
    """Compare an answer with the one that a page prints.

    Strings, names and whole numbers are equal, fractions within the tolerance. `…` is anything, in a string or outside;
    `… 384 numbers` is the rest of a list of that many.

    Raises:
        AssertionError: they differ.
    """
    parts: list[str] = []
    fractions: list[float] = []
    in_list = 0
    for token in _TOKEN.finditer(printed):
        if token["fraction"]:
            fractions.append(float(token["fraction"]))
            parts.append(f"({_NUMBER})")
            in_list += 1
        elif token["count"]:
            parts.append(rf"{_NUMBER}(?:\s*,\s*{_NUMBER}){{{int(token['count']) - in_list - 1}}}")
        elif token[0] == "…":
            parts.append(".*")
        else:
            in_list = 0 if token[0] == "[" else in_list
            parts.append(re.escape(token[0]).replace("…", '[^"]*'))
    found = re.fullmatch(r"\s*".join(["", *parts, ""]), said, re.DOTALL)
    both = f"the page prints\n{printed}\nand the answer is\n{said}"
    assert found, both
    for expected, number in zip(fractions, found.groups(), strict=True):
        assert abs(float(number) - expected) <= tolerance, f"{number} in place of {expected}: {both}"


def list_reasons(example: Example) -> Sequence[str]:
    """Return the listed reasons why an example is not run; at most one makes sense."""
    return [reason for beginning, reason in NOT_RUN.items() if example.code.startswith(beginning)]
