"""Promise: clients' images and sound are decoded in place; no string is fetched or opened."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    pipeline,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.tasks.custom_pipeline import CustomPipelineRunner
from runners.tasks.media import StringKind, decode_media, opens_text_urls
from tests.tiny import byte_level_tokenizer, save

CODE = """from transformers import pipeline
def create_pipeline(): return pipeline("image-text-to-text", model="./model")
"""
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}\n{% endfor %}"
)
SHORT = {"max_new_tokens": 2}
#: Names for media in transformers, OpenAI and Anthropic, and some invented ones.
NAMES = (
    "image", "images", "image_url", "input_image", "url", "path", "base64", "audio", "audios", "audio_url",
    "input_audio", "video", "videos", "video_url", "data", "data_base64", "file", "file_data", "source", "raw",
    "inputs", "assets", "picture", "uri", "Image_URL", "",
)  # fmt: skip


def _png(color: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), color).save(buffer, "PNG")
    return buffer.getvalue()


PNG = base64.b64encode(_png()).decode()


def _chat(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "and/or https://a.example"}]}]


def _checkpoint(folder: Path) -> Path:
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"], "pad_token": "<pad>"})
    processor: Any = LlavaProcessor
    processor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    sizes: dict[str, Any] = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    kind: Any = LlavaConfig
    config = kind(
        vision_config=CLIPVisionConfig(hidden_size=16, image_size=16, patch_size=8, projection_dim=16, **sizes),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, max_position_embeddings=256, initializer_range=0.3, **sizes
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_seq_length=4, vision_feature_layer=-1,
    )  # fmt: skip
    return save(folder, LlavaForConditionalGeneration, config, tokenizer)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> CustomPipelineRunner:
    """Load a runner of a transformers pipeline that accepts images and text."""
    folder = _checkpoint(tmp_path_factory.mktemp("llava"))
    (folder / "custom_pipeline.py").write_text(CODE)
    runner = CustomPipelineRunner(ModelSettings(storage_uri=str(folder), trust_remote_code=True))
    runner.load()
    return runner


class _Watch:
    """Forbidden addresses and paths, with the record of accesses."""

    def __init__(self, folder: Path, server: HTTPServer) -> None:
        self.seen: list[str] = []
        (folder / "marker.png").write_bytes(_png())
        web = f"http://127.0.0.1:{server.server_port}/marker.png"
        self.addresses = (web, str(folder / "marker.png"), f"file://{folder}/marker.png", "marker.png")

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" or (event == "open" and "marker" in str(arguments[0])):
            self.seen.append(f"{event}: {arguments}")


_watching: list[_Watch] = []


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    for watch in _watching:
        watch(event, arguments)


@pytest.fixture(scope="module")
def web_server() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def audited() -> None:
    # An audit hook cannot be removed; it does nothing unless a test is watching.
    sys.addaudithook(_record)


@pytest.fixture
def watch(tmp_path: Path, web_server: HTTPServer, audited: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Watch]:
    watch = _Watch(tmp_path, web_server)
    monkeypatch.chdir(tmp_path)
    _watching.append(watch)
    yield watch
    _watching.remove(watch)


@pytest.mark.parametrize("name", NAMES)
def test_no_name_at_any_depth_has_a_string_fetched_or_opened(
    runner: CustomPipelineRunner, watch: _Watch, name: str
) -> None:
    kinds = ("image", "image_url", "video", "audio", name)
    for address in watch.addresses:
        for value in (address, {"url": address}, [[address]], {"text": {name: address}}, {"x": [{"y": address}]}):
            parts = [{"type": kind, name: value} for kind in kinds]
            instances = [
                *(_chat(part) for part in parts), [_chat(parts[0])], _chat([parts[0]]), {"text": _chat(parts[0])},
                {"images": _chat(parts[0])}, {"text": "<image>", "images": value}, {"text": "a", name: value},
                {"text": [{"role": "user", "content": "a", "tools": [{name: value}], "documents": [{name: value}]}]},
                {"text": "a", "processor_kwargs": {"images": value}}, {"text": "a", "forward_params": {name: address}},
            ]  # fmt: skip
            # Parameters of unknown names may be words, and objects of words.
            given: list[dict[str, Any]] = [
                {"images": value},
                {"processor_kwargs": {name: value}},
                {"documents": [{name: value}]},
            ]
            items = [*(Item(one, SHORT) for one in instances), *(Item(_chat(), {**SHORT, **one}) for one in given)]
            for item, answer in zip(items, runner.predict(items), strict=True):
                assert isinstance(answer, InvalidRequest), (item, answer)
                assert "base64" in answer.message
    assert not watch.seen


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": PNG}, {"type": "image", "url": PNG}, {"type": "image", "path": PNG},
        {"type": "image", "base64": PNG}, {"type": "image", "url": f"data:image/png;base64,{PNG}"},
        {"type": "image_url", "image_url": f"data:image/png;base64,{PNG}"}, {"type": "image_url", "image_url": PNG},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
    ],
    ids=lambda part: next(iter(set(part) - {"type"})),
)  # fmt: skip
def test_an_image_is_decoded_in_every_position(runner: CustomPipelineRunner, part: dict[str, Any]) -> None:
    plain: Any = pipeline("image-text-to-text", model=runner.settings.storage_uri)
    told = {"role": "system", "content": "Briefly, please."}
    image = {"type": "image", "image": Image.open(io.BytesIO(_png()))}
    expected = plain(text=[told, *_chat(image)], return_full_text=False, **SHORT)[0]["generated_text"]
    parameters = {**SHORT, "return_full_text": False}
    chat = [told, *_chat(part)]
    answers = runner.predict([Item(chat, parameters), Item({"text": chat}, parameters)])
    assert [answer[0]["generated_text"] for answer in answers] == [expected, expected]


@pytest.mark.parametrize(
    "instance",
    [
        {"text": "http://a.example/b or /etc/hostname?"},
        {"text": [{"role": "user", "content": "/etc/hostname", "name": "bob"}]},
        {"text": [{"role": "user", "content": [{"type": "text", "text": "https://a.example"}]}]},
        {"text": "a", "tools": [{"type": "function", "function": {"name": "f", "description": "a/b", "parameters": {
            "type": "object", "required": ["url"], "properties": {"url": {"type": "string", "enum": ["a/b"]}}}}}]},
        {"messages": [{"role": "assistant", "tool_calls": [
            {"id": "a/b", "type": "function", "function": {"name": "f", "arguments": {"city": "a/b"}}}]}]},
        {"text": "a", "documents": [{"title": "a/b", "text": "c/d"}]},
        {"state": {"ticket": "a/b"}, "questions": {"refund": {"type": "choice", "criteria": {"yes": "a/b"}}}},
        {"text": "a", "task": "transcribe", "generate_kwargs": {"cache_implementation": "static"}},
    ],
    ids=str,
)  # fmt: skip
def test_strings_arrive_unchanged(instance: Any) -> None:
    assert decode_media(instance, "media") == instance


def test_bytes_that_are_no_image_arrive_as_bytes() -> None:
    parts: list[Any] = [{"type": "audio", "audio": "QUJD"}, {"type": "video", "url": "data:video/mp4;base64,QUJD"}]
    parts.append({"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}})
    audio, video, spoken = decode_media(_chat(*parts), "media")[0]["content"][:3]
    assert (audio["audio"], video["url"]) == (b"ABC", b"ABC")
    assert spoken["input_audio"] == {"data": b"ABC", "format": "wav"}


@pytest.mark.parametrize(
    ("kind", "value", "path"),
    [
        ("media", _chat({"type": "image_url", "image_url": {"url": "http://a"}}), "[0].content[0].image_url.url: "),
        ("media", {"assets": {"img": {"data_base64": "http://a"}}}, "assets.img.data_base64: "),
        ("text", {"text_inputs": "a", "forward_params": {"voice_preset": "../a"}}, "forward_params.voice_preset: "),
        ("text", {"text_inputs": "a", "else": "http://a"}, "else: "),
        ("text", [{"role": "user", "content": [{"type": "audio", "else": "http://a"}]}], "[0].content[0].else: "),
        ("prose", {"url": "http://a"}, "url: "),
    ],
)
def test_a_refusal_names_the_field(kind: StringKind, value: Any, path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_media(value, kind)
    assert refused.value.message.startswith(path)


@pytest.mark.parametrize("name", ["marker.png", "marker"])
def test_a_choice_that_names_a_file_of_the_server_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert decode_media({"voice_preset": name}, "choice") == {"voice_preset": name}
    for file in ("marker.png", "marker.npz"):
        (tmp_path / file).touch()
    with pytest.raises(InvalidRequest, match=r"voice_preset: 'marker.* looks like a file"):
        decode_media({"voice_preset": name}, "choice")


_NAME = st.text().filter(lambda name: decode_media({name: ""}, "text")[name] != "")


@given(
    st.recursive(
        st.just("http://a"), lambda inner: st.lists(inner, min_size=1) | st.dictionaries(_NAME, inner, min_size=1)
    )
)
def test_a_field_that_is_not_known_to_hold_text_may_hold_none(value: Any) -> None:
    for around in ("text", "content", "tools", "documents", "type"):
        with pytest.raises(InvalidRequest, match="base64"):
            decode_media({around: [{"unknown": value}]}, "media")


def test_an_address_instead_of_text_is_refused_where_it_would_be_opened() -> None:
    class IdeficsProcessor:
        pass

    class Pipe:
        def __init__(self, processor: Any) -> None:
            self.processor = processor

    assert opens_text_urls(Pipe(IdeficsProcessor()))
    assert not opens_text_urls(Pipe(object()))
    texts = {"text": ["User:", "look at http://a.example/b.png"]}
    assert decode_media(texts, "media", addresses=False) == texts
    with pytest.raises(InvalidRequest, match=r"text\[1\]: an address is not opened; send an image as base64"):
        decode_media({"text": ["User:", " http://a.example/b.png "]}, "media", addresses=False)
