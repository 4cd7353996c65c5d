"""Images and sound from clients: their bytes, and nothing that would have the server open a file or an address.

transformers opens strings under many names, and a new version may add one. So names are known that hold texts, and a
string under any other is media: decoded here, or refused.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
from typing import Any, Literal

from hf_runtime.contract.errors import InvalidRequest

#: What becomes of a string: decoded, left as it is, left as it is under any name within, or taken as the name of a
#: choice, which leads to no file.
Place = Literal["media", "text", "prose", "choice"]

#: Parts of a pipeline that open what they are given, as transformers' load_image, load_audio and load_video do.
_READERS = ("image_processor", "feature_extractor", "video_processor", "processor")
#: Names that hold media even among choices and within prose.
_MEDIA = frozenset(
    (
        "image", "images", "image_url", "input_image", "audio", "audios", "audio_url", "input_audio", "video", "videos",
        "video_url", "input_video", "inputs", "raw", "url", "urls", "path", "base64", "data", "data_base64", "assets",
        "query_images", "segmentation_maps", "masks", "font", "file", "filename",
    )
)  # fmt: skip
#: Names of texts, in pipelines' arguments, messages and their parts, and JSON schemas of tools.
_TEXTS = frozenset(
    (
        "text", "text_inputs", "text_pair", "content", "role", "type", "name", "title", "id", "question", "query",
        "prompt", "instructions", "description", "candidate_labels", "hypothesis_template", "stop_sequence",
        "stop_strings", "word_boxes", "tools", "documents", "tool_call_id", "reasoning", "reasoning_content",
        "thinking", "refusal", "detail", "format", "media_type", "mime_type", "enum", "const", "default",
        "pattern", "required",
    )
)  # fmt: skip
#: Names of what clients give any structure and names of their own; it is written into a prompt and nothing else.
_PROSE = frozenset(("arguments", "state", "questions", "criteria"))
#: Names of choices where these are given beside media, and of objects that hold choices.
_CHOICES = frozenset(
    (
        "task", "subtask", "language", "lang", "voice_preset", "function_to_apply", "return_type", "return_timestamps",
        "return_tensors", "padding", "padding_side", "truncation", "generation_mode",
        "generate_kwargs", "processor_kwargs", "tokenizer_kwargs", "text_kwargs", "images_kwargs", "videos_kwargs",
        "audio_kwargs", "preprocess_params", "forward_params",
    )
)  # fmt: skip
#: Of files in the folder where the server runs. Bark adds the ending itself.
_ENDINGS, _LONGEST_NAME = ("", ".npz"), 256
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://\S+\s*", re.IGNORECASE)


def opens_files(pipeline: Any) -> bool:
    """Tell a pipeline that may take a string for the place of an image, a video or a sound."""
    return any(getattr(pipeline, part, None) is not None for part in _READERS)


def opens_texts(pipeline: Any) -> bool:
    """Tell a pipeline that takes a text which is an address for the image there, as that of Idefics does."""
    kinds = type(getattr(pipeline, "processor", None)).__mro__
    return any(kind.__name__ == "IdeficsProcessor" for kind in kinds)


def decode_media(value: Any, place: Place, path: str = "", *, addresses: bool = True) -> Any:
    """A client's value with the bytes in place of what encodes them: a PIL image if they are one and PIL is here.

    Args:
        place: of strings that no known name is given to.
        path: of the value, for messages.
        addresses: a text may be nothing but an address.

    Raises:
        InvalidRequest: a string could lead to a file or an address; the message names it.
    """
    match value:
        case str():
            try:
                return _checked(value, place, addresses)
            except InvalidRequest as error:
                raise (error.in_field(path[:200]) if path else error) from None
        case list() | tuple():
            return [
                decode_media(part, place, f"{path}[{number}]", addresses=addresses) for number, part in enumerate(value)
            ]
        case dict():
            return {
                name: decode_media(
                    part, _place_of(name, place), f"{path}.{name}".removeprefix("."), addresses=addresses
                )
                for name, part in value.items()
            }
        case _:
            return value


def _place_of(name: str, around: Place) -> Place:
    """The place of strings under that name; the one around counts only where names are the client's, or choices."""
    if name in _MEDIA:
        return "media"
    if around == "prose" or name in _PROSE:
        return "prose"
    if name in _TEXTS:
        return "text"
    return "choice" if around == "choice" or name in _CHOICES else "media"


def _checked(text: str, place: Place, addresses: bool) -> Any:
    if place == "media":
        return _decoded(text)
    if place == "choice" and _may_be_opened(text):
        # No known argument is opened here, and one of a processor that nobody has thought of is not either.
        raise InvalidRequest(f"{text[:100]!r} looks like a file or an address, which are not opened; send base64")
    if not addresses and _ADDRESS.fullmatch(text):
        raise InvalidRequest("an address is not opened; send an image as base64, or a text that is more than that")
    return text


def _may_be_opened(text: str) -> bool:
    """Tell an address, a path, or the name of a file where the server runs."""
    if "/" in text or "\\" in text:
        return True
    return len(text) < _LONGEST_NAME and any(os.path.isfile(text + ending) for ending in _ENDINGS)


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
