"""Images and sound from clients: their bytes, and nothing that would have the server open a file or an address."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any, Literal

from errors import InvalidRequest

#: What a pipeline does with a string: opens it, reads it as a text, or takes it as the name of a choice.
Place = Literal["media", "text", "choice"]

#: Parts of a pipeline that open what they are given, as transformers' load_image, load_audio and load_video do.
_READERS = ("image_processor", "feature_extractor", "video_processor", "processor")
_MEDIA = frozenset(
    ("image", "images", "audio", "audios", "video", "videos", "inputs", "raw", "url", "path", "base64", "assets")
)
_TEXTS = frozenset(
    (
        "text", "text_inputs", "content", "role", "type", "question", "questions", "query", "prompt", "state",
        "instructions", "criteria", "description", "candidate_labels", "hypothesis_template", "stop_sequence",
        "stop_strings", "word_boxes", "tools", "documents", "data_base64",
    )
)  # fmt: skip


def opens_files(pipeline: Any) -> bool:
    """Whether a pipeline may take a string for the place of an image, a video or a sound."""
    return any(getattr(pipeline, part, None) is not None for part in _READERS)


def without_addresses(value: Any, place: Place) -> Any:
    """A client's value with the bytes in place of what encodes them: a PIL image if they are one and PIL is here.

    Args:
        place: of strings that no known name is given to.

    Raises:
        InvalidRequest: a string could lead to a file or an address.
    """
    match value:
        case str():
            return _checked(value, place)
        case list():
            return [without_addresses(part, place) for part in value]
        case dict():
            return {name: without_addresses(part, _place_of(name, place)) for name, part in value.items()}
        case _:
            return value


def _place_of(name: str, around: Place) -> Place:
    return "media" if name in _MEDIA else "text" if name in _TEXTS else around


def _checked(text: str, place: Place) -> Any:
    if place == "text":
        return text
    if place == "media":
        return _decoded(text)
    if "/" in text or "\\" in text:
        # No known argument is opened here, and one of a processor that nobody has thought of is not either.
        raise InvalidRequest(f"{text[:100]!r} looks like a file or an address, which are not opened; send base64")
    return text


def _decoded(text: str) -> Any:
    header, separator, payload = text.partition(";base64,")
    is_uri = text.startswith("data:")
    if is_uri and not separator:
        raise InvalidRequest("a data: URI must be base64")
    try:
        content = base64.b64decode(payload if is_uri else text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("must be base64 or a data: URI; files and addresses are not opened") from None
    return content if is_uri and not header.startswith("data:image") else _image(content, sure=is_uri)


def _image(content: bytes, sure: bool) -> Any:
    """A picture if there is one in `content`, else the bytes, which may be sound, unless they were called an image."""
    try:
        from PIL import Image, UnidentifiedImageError  # only pipelines that read images need it
    except ImportError:
        return content
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except UnidentifiedImageError:
        if not sure:
            return content
        raise InvalidRequest("is not an image of a known format") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise InvalidRequest("is a damaged image, or one too large to unpack") from None
