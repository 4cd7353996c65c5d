"""`embeddings`: https://platform.openai.com/docs/api-reference/embeddings."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, GetPydanticSchema
from typing_extensions import TypedDict

from hf_runtime.api.openai.schema import OpenAIRequest
from hf_runtime.api.openai.text import TextsField
from hf_runtime.api.openai.usage import TokenUsage
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.settings import Task

#: Sent as a list of numbers.
_Vector = Annotated[npt.NDArray[np.float32], GetPydanticSchema(lambda _, handler: handler(list[float]))]


@answer_type
class EmbeddingObject(TypedDict):
    """The vector of a text, or its little-endian float32 values in base64."""

    object: Literal["embedding"]
    index: int
    embedding: _Vector | str


@answer_type
class EmbeddingList(TypedDict):
    """A vector for each text."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: TokenUsage


class EmbeddingRequest(OpenAIRequest):
    """Texts to embed."""

    tasks: ClassVar[tuple[Task, ...]] = ("feature-extraction",)

    neutral_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "add_special_tokens": (True,),
        "truncation_side": ("right",),
    }

    input: TextsField
    dimensions: int | None = Field(None, ge=1)
    encoding_format: Literal["float", "base64"] = "float"
    truncation: bool | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1)

    @property
    def item_count(self) -> tuple[str, int]:
        return "input", len(self.input.texts)

    @property
    def items(self) -> list[tuple[Any, dict[str, Any]]]:
        given = self.model_dump(include={"dimensions", "truncation", "truncate_prompt_tokens"}, exclude_none=True)
        return [(text, {"details": True, **given}) for text in self.input.texts]

    def locate(self, index: int) -> str:
        return self.input.locate("input", index)

    @property
    def field_names(self) -> Mapping[str, str]:
        # A model that refuses `details` returns a vector per token, so the field to change is the model.
        return {"details": "model"}

    def render(self, answers: Sequence[Mapping[str, Any]]) -> EmbeddingList:
        """Return the answer with all vectors, each (dimensions,)."""
        data: list[EmbeddingObject] = [
            {"object": "embedding", "index": index, "embedding": self._encode(answer["embedding"])}
            for index, answer in enumerate(answers)
        ]
        tokens = sum(answer["prompt_tokens"] for answer in answers)
        usage: TokenUsage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": self.model, "usage": usage}

    def _encode(self, embedding: npt.ArrayLike) -> npt.NDArray[np.float32] | str:
        vector = np.asarray(embedding, dtype="<f4")
        return vector if self.encoding_format == "float" else b64encode(vector.tobytes()).decode()
