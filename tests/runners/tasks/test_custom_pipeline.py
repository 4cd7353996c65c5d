"""Promise: custom pipelines run only if allowed, isolate errors, and open no input."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BertForSequenceClassification, pipeline

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, LoadError, Overloaded
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.batch.engine import BatchEngine
from runners.registry import create_runner
from runners.tasks.custom_pipeline import CustomPipelineRunner
from runners.tasks.text_classification import TextClassificationRunner
from tests.e2e.checkpoints import text_classification, text_generation, token_classification

#: The pipeline in the documentation of KServe's runtime.
DOCUMENTED = """# custom_pipeline.py
from transformers import pipeline

def create_pipeline():
    return pipeline(
        "text-classification",
        model="./model",
        tokenizer="./model",
        return_all_scores=True
    )
"""
TEXT = "I love this movie!"


def _write(folder: Path, code: str = DOCUMENTED) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "custom_pipeline.py").write_text(code)
    return folder


def _settings(folder: Path, **options: Any) -> ModelSettings:
    return ModelSettings(**{"storage_uri": str(folder), "trust_remote_code": True, **options})


def _runner(folder: Path, **options: Any) -> CustomPipelineRunner:
    runner = create_runner(_settings(folder, **options))
    assert isinstance(runner, CustomPipelineRunner)
    runner.load()
    runner.warm_up()
    return runner


def _code(body: str) -> str:
    return f"def create_pipeline():\n    def pipe(text, **options):\n        {body}\n    return pipe\n"


@pytest.mark.parametrize("beside", [True, False], ids=["beside model/", "in the model's folder"])
def test_the_documented_pipeline_answers_all_scores_for_any_location_of_its_file(
    tmp_path: Path, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "storage"
    checkpoint = text_classification(folder / "model" if beside else folder)
    _write(folder)
    before = Path.cwd()
    runner = _runner(folder)
    assert Path.cwd() == before
    expected = pipeline("text-classification", model=str(checkpoint))(TEXT, top_k=None)
    (answer,) = runner.predict([Item(TEXT)])
    assert answer == expected
    assert {part["label"] for part in answer} == {"POSITIVE", "NEGATIVE"}
    (best,) = runner.predict([Item(TEXT, {"top_k": 1})])
    assert best == expected[:1]


def test_a_pipeline_runs_if_remote_code_is_trusted_or_its_file_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _write(text_classification(tmp_path / "m"), "raise SystemExit('it ran')")
    with caplog.at_level(logging.WARNING, "runners"):
        runner = create_runner(_settings(folder, trust_remote_code=False, task="text-classification"))
        assert isinstance(runner, TextClassificationRunner)
        runner.load()
    assert "CUSTOM_PIPELINE=custom_pipeline.py, if you trust it" in caplog.text
    named = _write(text_classification(tmp_path / "n"), _code("return text.upper()"))
    (named / "custom_pipeline.py").rename(named / "mine.py")
    (answer,) = _runner(named, trust_remote_code=False, custom_pipeline="mine.py").predict([Item("a")])
    assert answer == "A"


@pytest.mark.parametrize("name", ["missing.py", "../outside.py", "/etc/hostname"])
def test_a_named_file_must_be_in_the_folder(tmp_path: Path, name: str) -> None:
    folder = text_classification(tmp_path / "m")
    (tmp_path / "outside.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(LoadError, match=r"CUSTOM_PIPELINE: .* holds no file"):
        create_runner(_settings(folder, custom_pipeline=name))


def test_a_named_file_may_be_a_link_as_in_the_hubs_cache(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_text(_code("return text.upper()"))
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "custom_pipeline.py").symlink_to(blob)
    runner = _runner(folder, trust_remote_code=False, custom_pipeline="custom_pipeline.py")
    assert runner.predict([Item("a")]) == ["A"]


def test_a_trusted_model_without_a_pipeline_is_served_by_a_known_task_only(
    tmp_path: Path,
) -> None:
    folder = text_classification(tmp_path / "m")
    assert isinstance(create_runner(_settings(folder)), TextClassificationRunner)
    with pytest.raises(LoadError, match=r"TASK: .* has no custom pipeline for image-classification"):
        create_runner(_settings(folder, TASK="image-classification"))


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("def create_pipeline(): raise RuntimeError('no weights\\nsecond line')", "RuntimeError: no weights"),
        ("def make(): pass", "it does not define create_pipeline()"),
        ("def create_pipeline(): return 5", "returns nothing that can be called"),
        ("syntax error", "SyntaxError"),
        ("def create_pipeline(): raise SystemExit('not today')", "SystemExit: not today"),
        ("import no_such_module", "ModuleNotFoundError"),
        (
            "from transformers import pipeline\ndef create_pipeline(): return pipeline('summarization')",
            "The task summarization has been removed from transformers",
        ),
    ],
)
def test_a_pipeline_that_fails_to_load_is_an_error_of_one_sentence(tmp_path: Path, code: str, named: str) -> None:
    runner = create_runner(_settings(_write(tmp_path / "m", code)))
    with pytest.raises(LoadError) as error:
        runner.load()
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_the_stack_trace_of_a_pipeline_is_logged_only_at_debug(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner = create_runner(_settings(_write(tmp_path / "m", "def create_pipeline(): raise RuntimeError('no')")))
    # Another test may have left any log level on its package.
    with (
        caplog.at_level(logging.DEBUG),
        caplog.at_level(logging.DEBUG, logger="runners"),
        caplog.at_level(logging.DEBUG, logger="runners.models"),
        pytest.raises(LoadError),
    ):
        runner.load()
    shown = [record.levelno for record in caplog.records if record.exc_info or record.exc_text]
    assert shown == [logging.DEBUG]


def test_modules_and_files_next_to_the_pipeline_are_found(tmp_path: Path) -> None:
    folder = _write(
        tmp_path / "m",
        "from pathlib import Path\nfrom shouting_of_custom_pipeline import shout\n"
        "def create_pipeline():\n    word = Path('./word.txt').read_text()\n"
        "    return lambda text: shout(text + word)\n",
    )
    (folder / "shouting_of_custom_pipeline.py").write_text("def shout(text): return text.upper()\n")
    (folder / "word.txt").write_text("!")
    assert _runner(folder).predict([Item("hey")]) == ["HEY!"]


def test_a_file_of_any_name_may_define_dataclasses_and_hides_no_module_of_the_server(tmp_path: Path) -> None:
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Answer:\n    word: str\n    scores: list[float]\n"
        "def create_pipeline(): return lambda text: Answer(text, [0.5])\n"
    )
    folder = _write(tmp_path / "m", code)
    (folder / "custom_pipeline.py").rename(folder / "settings.py")
    assert _runner(folder, custom_pipeline="settings.py").predict([Item("a")]) == [{"word": "a", "scores": [0.5]}]
    assert sys.modules["hf_runtime.settings"].ModelSettings is ModelSettings


def test_one_bad_item_does_not_fail_the_others_and_what_code_refuses_is_the_clients_mistake(tmp_path: Path) -> None:
    runner = _runner(_write(tmp_path / "m", _code("return [int(text), sorted(options)]")))
    good, bad, unknown, reserved = runner.predict(
        [Item("1", {"a": 2}), Item("x"), Item(None), Item("1", {"num_workers": 4})]
    )
    assert good == [1, ["a"]]
    assert isinstance(bad, InvalidRequest)
    assert "invalid literal for int()" in bad.message
    assert isinstance(unknown, InvalidRequest)
    assert isinstance(reserved, InvalidRequest)
    assert reserved.message.startswith("parameters.num_workers: ")


#: Errors from custom code that Python does not derive from Exception and that would end a task or a process.
RAISES = """
import asyncio

class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")

class Own(BaseException):
    pass

WRONG = {
    "SystemExit": SystemExit(3), "KeyboardInterrupt": KeyboardInterrupt(), "GeneratorExit": GeneratorExit(),
    "CancelledError": asyncio.CancelledError(), "StopIteration": StopIteration(), "Own": Own(),
    "BaseExceptionGroup": BaseExceptionGroup("two", [SystemExit(), KeyboardInterrupt()]),
    "Unspeakable": Unspeakable(), "RecursionError": RecursionError(), "MemoryError": MemoryError(),
}

class Items:
    def __init__(self, error):
        self.error = error

    def __iter__(self):
        raise self.error

def create_pipeline():
    def pipe(text):
        if text.startswith("later "):
            return Items(WRONG[text.removeprefix("later ")])
        if text in WRONG:
            raise WRONG[text]
        return text.upper()
    return pipe
"""


@pytest.mark.parametrize(
    "name",
    ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError", "StopIteration", "Own", "BaseExceptionGroup",
     "Unspeakable", "RecursionError", "MemoryError"],
)  # fmt: skip
@pytest.mark.parametrize("when", ["", "later "])
def test_any_error_of_a_pipeline_fails_only_its_instance(tmp_path: Path, name: str, when: str) -> None:
    runner = _runner(_write(tmp_path / "m", RAISES))

    async def scenario(compute: ThreadPoolExecutor) -> list[Any]:
        engine = BatchEngine(runner, max_queue_size=10, compute=compute)
        running = asyncio.create_task(engine.run())
        answers = [engine.submit(Item(text)) for text in ("a", when + name, "b")]
        results = await asyncio.wait_for(asyncio.gather(*answers, return_exceptions=True), 60)
        results.append(await engine.submit(Item("c")))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return results

    with ThreadPoolExecutor(1) as compute:
        first, failed, second, third = asyncio.run(scenario(compute))
    assert (first, second, third) == ("A", "B", "C")
    assert isinstance(failed, InferenceFailed | Overloaded)


def test_a_refused_parameter_is_named(tmp_path: Path) -> None:
    code = "def create_pipeline(): return lambda text, top_k=1: text[:top_k]\n"
    good, bad = _runner(_write(tmp_path / "m", code)).predict([Item("ab", {"top_k": 2}), Item("a", {"topk": 2})])
    assert good == "ab"
    assert isinstance(bad, InvalidRequest)
    assert bad.message.startswith("parameters.topk: ")


def test_a_pipeline_that_rejects_the_example_is_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = (
        "class Pipe:\n    task = 'text-classification'\n"
        "    def __call__(self, instance): return {'label': instance.get('title'), 'score': 1.0}\n"
        "def create_pipeline(): return Pipe()\n"
    )
    with caplog.at_level(logging.WARNING, "runners"):
        runner = _runner(_write(tmp_path / "m", code))
    assert "did not answer an example" in caplog.text
    assert runner.predict([Item({"title": "a"})]) == [[{"label": "a", "score": 1.0}]]


def test_an_object_with_the_first_arguments_name_becomes_keyword_arguments(tmp_path: Path) -> None:
    runner = _runner(_write(tmp_path / "m", _code("return [text, options]")))
    assert runner.predict([Item({"text": "a", "labels": ["b"]})]) == [["a", {"labels": ["b"]}]]
    assert runner.predict([Item({"texts": "a"})]) == [[{"texts": "a"}, {}]]
    named = _runner(_write(tmp_path / "n", "def create_pipeline(): return lambda a=1, b=2: [a, b]\n"))
    assert named.predict([Item({"b": 3}), Item({"c": 3}), Item({})]) == [[1, 3], [{"c": 3}, 2], [{}, 2]]
    unnamed = _runner(_write(tmp_path / "o", "def create_pipeline(): return max\n"))
    assert unnamed.predict([Item([1, 2])]) == [2]


def test_a_zero_shot_pipeline_of_transformers_is_served(tmp_path: Path) -> None:
    code = (
        "from transformers import pipeline\n"
        "def create_pipeline(): return pipeline('zero-shot-classification', model='./model', tokenizer='./model')\n"
    )
    folder = _write(text_classification(tmp_path / "m"), code)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "label2id": {"NEGATIVE": 0, "ENTAILMENT": 1}}))
    question = {"sequences": "Paris is the capital.", "candidate_labels": ["city", "food"]}
    (answer,) = _runner(folder).predict([Item(question)])
    assert set(answer["labels"]) == {"city", "food"}
    assert sum(answer["scores"]) == pytest.approx(1, abs=1e-5)


def test_items_in_one_batch_are_answered_as_by_themselves(tmp_path: Path) -> None:
    code = (
        "from transformers import pipeline\n"
        "def create_pipeline(): return pipeline('token-classification', model='./model', tokenizer='./model')\n"
    )
    folder = _write(token_classification(tmp_path / "m"), code)
    items = [Item("Steve Jobs in Cupertino"), Item("Paris"), Item("Hello world, how are you today?")]
    alone, together = _runner(folder).predict(items), _runner(folder, max_batch_size=8).predict(items)
    for one, other in zip(alone, together, strict=True):
        assert [part["word"] for part in one] == [part["word"] for part in other]
        assert [part["score"] for part in one] == pytest.approx([part["score"] for part in other], abs=1e-5)


def test_code_that_is_not_transformers_is_called_for_one_instance_at_a_time(tmp_path: Path) -> None:
    # Given a list of two instances, it would answer a list of two, neither of which belongs to an instance.
    runner = _runner(_write(tmp_path / "m", _code("return [text, 'second']")), max_batch_size=8)
    assert runner.predict([Item("a"), Item("b")]) == [["a", "second"], ["b", "second"]]


def test_any_return_value_of_a_pipeline_becomes_json(tmp_path: Path) -> None:
    imports = "import numpy as np, torch\nfrom collections import OrderedDict\n"
    body = "return OrderedDict(a=np.float32(0.5), b=np.ones((1, 2)), c=torch.ones(2), d=(1, None), e=b'x')"
    runner = _runner(_write(tmp_path / "m", imports + _code(body)))
    assert runner.predict([Item("")]) == [{"a": 0.5, "b": [[1.0, 1.0]], "c": [1.0, 1.0], "d": [1, None], "e": "eA=="}]
    for number, body in enumerate(("return object()", "return [np.array([object()])]", "return np.complex128(1)")):
        (failed,) = _runner(_write(tmp_path / f"n{number}", imports + _code(body))).predict([Item("")])
        assert isinstance(failed, InferenceFailed)


#: A pipeline that opens every string, with the attribute by which transformers' own are recognized.
OPENS = """class Pipe:
    {part} = object()
    def __call__(self, images, text=None, **options):
        found = [images, text, *options.values()]
        return [open(one).read() for one in found if isinstance(one, str)] or len(images)
def create_pipeline(): return Pipe()
"""
CHAT = [{"role": "user", "content": [{"type": "image", "url": "http://127.0.0.1/secret"}]}]


@pytest.mark.parametrize("part", ["image_processor", "feature_extractor", "video_processor", "processor"])
@pytest.mark.parametrize(
    ("instance", "parameters"),
    [
        ("/etc/hostname", {}),
        ("http://127.0.0.1/secret", {}),
        (["QUJD", "/etc/hostname"], {}),
        ({"image": "file:///etc/hostname"}, {}),
        ({"inputs": {"path": "/etc/hostname"}}, {}),
        (CHAT, {}),
        ({"text": CHAT}, {}),
        ({"assets": {"[1]": "/etc/hostname"}}, {}),
        ("QUJD", {"images": ["/etc/hostname"]}),
        ("QUJD", {"voice_preset": "../../etc/hostname"}),
        ("data:image/png,QUJD", {}),
    ],
    ids=str,
)
def test_no_clients_string_is_opened_as_a_file_or_an_address(
    tmp_path: Path, part: str, instance: Any, parameters: dict[str, Any]
) -> None:
    runner = _runner(_write(tmp_path / "m", OPENS.format(part=part)))
    with pytest.raises(InvalidRequest, match="base64"):
        runner.prepare_item(Item(instance, parameters))
    assert runner.predict([Item("data:audio/wav;base64,QUJD"), Item("QUJD")]) == [3, 3]


def test_strings_and_choices_for_pipelines_that_open_files_arrive_unchanged(tmp_path: Path) -> None:
    code = (
        "class Pipe:\n    processor = object()\n"
        "    def __call__(self, images=None, text=None, **options): return [text, options]\n"
        "def create_pipeline(): return Pipe()\n"
    )
    text, parameters = "and/or https://example.org", {"candidate_labels": ["a photo / drawing"], "task": "transcribe"}
    (answer,) = _runner(_write(tmp_path / "m", code)).predict([Item({"text": text}, parameters)])
    assert answer == [text, parameters]


@pytest.mark.parametrize(
    ("instance", "nested"), [("Hello", False), ("Hello", True), ({"text_inputs": "Hello"}, False)], ids=str
)
def test_no_client_can_run_code_in_the_server(tmp_path: Path, instance: Any, nested: bool) -> None:
    code = (
        "from transformers import pipeline\n"
        "def create_pipeline(): return pipeline('text-generation', model='./model', tokenizer='./model')\n"
    )
    runner = _runner(_write(text_generation(tmp_path / "m"), code))
    evil, proof = tmp_path / "evil" / "custom_generate", tmp_path / "ran"
    evil.mkdir(parents=True)
    (evil / "generate.py").write_text(f"open({str(proof)!r}, 'w')\ndef generate(model, **options): return 1\n")
    attack = {"custom_generate": str(evil.parent), "trust_remote_code": True, "max_new_tokens": 2}
    as_keywords = isinstance(instance, dict)
    parameters = {"generate_kwargs": attack} if nested else {} if as_keywords else attack
    (answer,) = runner.predict([Item({**instance, **attack} if as_keywords else instance, parameters)])
    assert isinstance(answer, InvalidRequest)
    assert "custom_generate: clients do not choose code to run" in answer.message
    assert not proof.exists()


def test_the_pipeline_uses_the_tokenizer_of_the_folder(tmp_path: Path) -> None:
    checkpoint = text_classification(tmp_path / "m")
    runner = _runner(_write(checkpoint))
    assert isinstance(runner.pipeline.model, BertForSequenceClassification)  # type: ignore[attr-defined]
    assert runner.pipeline.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(checkpoint).get_vocab()  # type: ignore[attr-defined]


def test_a_folder_with_only_a_pipeline_names_the_setting_that_allows_it(tmp_path: Path) -> None:
    folder = _write(tmp_path / "m")
    with pytest.raises(LoadError, match="set TRUST_REMOTE_CODE=true, or CUSTOM_PIPELINE="):
        create_runner(_settings(folder, trust_remote_code=False, task="text-classification")).load()


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("return [text, 2**64]", "a whole number of more than 64 bits"),
        ("return {text: -2**63 - 1}", "a whole number of more than 64 bits"),
        ("return [text + '\\ud83d']", "half of a character"),
        ("return {'\\ud83d': text}", "half of a character"),
        ("return np.array([text + '\\ud83d'])", "half of a character"),
        ("return [text, float('nan')]", "NaN or infinity"),
        ("return {text: [np.array([np.inf])]}", "NaN or infinity"),
        ("return [text, torch.tensor([torch.nan])]", "NaN or infinity"),
        ("return [np.longdouble('inf')]", "NaN or infinity"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_an_answer_that_cannot_be_encoded_fails_alone_and_is_not_logged(
    tmp_path: Path, body: str, what: str, together: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = "what a client wrote", "good"
    code = "import numpy as np, torch\nfrom transformers import Pipeline\n"
    code += f"def answer(text, **options):\n    if text == {good!r}:\n        return text\n    {body}\n"
    if together:
        code += "class Pipe(Pipeline):\n    def __init__(self): pass\n    def __call__(self, texts, batch_size=1):\n"
        code += "        return [answer(one) for one in texts] if isinstance(texts, list) else answer(texts)\n"
        code += "    def _sanitize_parameters(self): pass\n    def preprocess(self): pass\n"
        code += "    def _forward(self): pass\n    def postprocess(self): pass\n"
    code += f"def create_pipeline(): return {'Pipe()' if together else 'answer'}\n"
    runner = _runner(_write(tmp_path / "m", code), max_batch_size=8)
    first, failed, last = runner.predict([Item(good), Item(bad), Item(good)])
    assert (first, last) == (good, good)
    assert isinstance(failed, InferenceFailed)
    assert failed.message == f"the model's answer cannot be sent: it holds {what}"
    assert "cannot be sent" in caplog.text
    assert bad not in caplog.text


def test_numbers_and_strings_of_any_type_become_plain_ones(tmp_path: Path) -> None:
    code = "import enum, numpy as np\nclass Kind(enum.IntEnum):\n    A = 3\n" + _code(
        "return [np.float64(0.5), np.str_('a'), Kind.A, {np.int64(1): np.longdouble(0.5)}, np.array(['b'])]"
    )
    (answer,) = _runner(_write(tmp_path / "m", code)).predict([Item("")])
    assert answer == [0.5, "a", 3, {"1": 0.5}, ["b"]]
    assert [type(part) for part in answer] == [float, str, int, dict, list]
