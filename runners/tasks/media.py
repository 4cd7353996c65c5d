"""Decoding of images and audio from clients, without opening files or URLs.

transformers opens strings under many names, and a new version may add more. So this module lists the names of texts,
and treats a string under any other name as media: it is decoded, or refused.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
from typing import Any, Literal

from hf_runtime.contract.errors import InvalidRequest

#: Treatment of a string. `media` is decoded; `text` is kept; `prose` is kept, and so are strings under any name within;
#: `choice` is kept unless it may lead to a file or URL.
StringKind = Literal["media", "text", "prose", "choice"]

#: Parts of a pipeline that open the strings they get, as transformers' load_image, load_audio and load_video do.
_MEDIA_READERS = ("image_processor", "feature_extractor", "video_processor", "processor")
#: Names of media, even among choices and within prose.
_MEDIA = frozenset(
    (
        "image", "images", "image_url", "input_image", "audio", "audios", "audio_url", "input_audio", "video", "videos",
        "video_url", "input_video", "inputs", "raw", "url", "urls", "path", "base64", "data", "data_base64", "assets",
        "query_images", "segmentation_maps", "masks", "font", "file", "filename",
    )
)  # fmt: skip
#: Names of texts: in arguments of pipelines, in messages and their parts, and in JSON schemas of tools.
_TEXTS = frozenset(
    (
        "text", "text_inputs", "text_pair", "content", "role", "type", "name", "title", "id", "question", "query",
        "prompt", "instructions", "description", "candidate_labels", "hypothesis_template", "stop_sequence",
        "stop_strings", "word_boxes", "tools", "documents", "tool_call_id", "reasoning", "reasoning_content",
        "thinking", "refusal", "detail", "format", "media_type", "mime_type", "enum", "const", "default",
        "pattern", "required",
    )
)  # fmt: skip
#: Names of values with a structure of the client's own; they are used only in prompts.
_PROSE = frozenset(("arguments", "state", "questions", "criteria"))
#: Names of choices that are arguments next to media, and of objects that hold choices.
_CHOICES = frozenset(
    (
        "task", "subtask", "language", "lang", "voice_preset", "function_to_apply", "return_type", "return_timestamps",
        "return_tensors", "padding", "padding_side", "truncation", "generation_mode",
        "generate_kwargs", "processor_kwargs", "tokenizer_kwargs", "text_kwargs", "images_kwargs", "videos_kwargs",
        "audio_kwargs", "preprocess_params", "forward_params",
    )
)  # fmt: skip
#: Suffixes and maximum length of names of files in the server's working directory. Bark appends the suffix itself.
_SUFFIXES, _MAX_NAME_LENGTH = ("", ".npz"), 256
_URL = re.compile(r"\s*[a-z][a-z0-9+.-]*://\S+\s*", re.IGNORECASE)


def opens_files(pipeline: Any) -> bool:
    """Return true if a pipeline may open a string as the path or URL of media."""
    return any(getattr(pipeline, part, None) is not None for part in _MEDIA_READERS)


def opens_text_urls(pipeline: Any) -> bool:
    """Return true if a pipeline opens texts that are a URL, as Idefics does."""
    classes = type(getattr(pipeline, "processor", None)).__mro__
    return any(one.__name__ == "IdeficsProcessor" for one in classes)


def decode_media(value: Any, kind: StringKind, path: str = "", *, addresses: bool = True) -> Any:
    """Replace encoded media in a client's value by bytes or PIL images.

    Images become PIL images if PIL is installed; all other media become bytes.

    Args:
        kind: treatment of strings without a known name.
        path: path of the value, for messages.
        addresses: whether a text may consist of a URL alone.

    Raises:
        InvalidRequest: a string could lead to a file or URL; the message names its field.
    """
    match value:
        case str():
            try:
                return _decode_or_check(value, kind, addresses)
            except InvalidRequest as error:
                raise (error.with_field(path[:200]) if path else error) from None
        case list() | tuple():
            return [
                decode_media(part, kind, f"{path}[{number}]", addresses=addresses) for number, part in enumerate(value)
            ]
        case dict():
            return {
                name: decode_media(
                    part, _choose_kind(name, kind), f"{path}.{name}".removeprefix("."), addresses=addresses
                )
                for name, part in value.items()
            }
        case _:
            return value


def _choose_kind(name: str, parent: StringKind) -> StringKind:
    """Return the kind of strings under a name; only `prose` and `choice` parents matter."""
    if name in _MEDIA:
        return "media"
    if parent == "prose" or name in _PROSE:
        return "prose"
    if name in _TEXTS:
        return "text"
    return "choice" if parent == "choice" or name in _CHOICES else "media"


def _decode_or_check(text: str, kind: StringKind, addresses: bool) -> Any:
    if kind == "media":
        return _decode(text)
    if kind == "choice" and _may_be_opened(text):
        # No known choice is a file, and an unknown argument of a processor must not open one either.
        raise InvalidRequest(f"{text[:100]!r} looks like a file or an address, which are not opened; send base64")
    if not addresses and _URL.fullmatch(text):
        raise InvalidRequest("an address is not opened; send an image as base64, or a text that is more than that")
    return text


def _may_be_opened(text: str) -> bool:
    """Return true for a URL, a path, or the name of a file in the working directory."""
    if "/" in text or "\\" in text:
        return True
    return len(text) < _MAX_NAME_LENGTH and any(os.path.isfile(text + suffix) for suffix in _SUFFIXES)


def _decode(text: str) -> Any:
    header, separator, payload = text.partition(";base64,")
    is_uri = text.startswith("data:")
    if is_uri and not separator:
        raise InvalidRequest("a data: URI must be base64")
    try:
        content = base64.b64decode(payload if is_uri else text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("must be base64 or a data: URI; files and addresses are not opened") from None
    return content if is_uri and not header.startswith("data:image") else _decode_image(content, must_be_image=is_uri)


def _decode_image(content: bytes, must_be_image: bool) -> Any:
    """Return a PIL image, or the bytes if they are not an image.

    Raises:
        InvalidRequest: the bytes are a damaged image, or no image although they must be one.
    """
    try:
        from PIL import Image, UnidentifiedImageError  # optional, needed only by pipelines for images
    except ImportError:
        return content
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except UnidentifiedImageError:
        if not must_be_image:
            return content
        raise InvalidRequest("is not an image of a known format") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise InvalidRequest("is a damaged image, or one too large to unpack") from None
