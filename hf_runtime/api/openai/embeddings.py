"""`embeddings`: https://platform.openai.com/docs/api-reference/embeddings."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hf_runtime.api.openai.schema import OpenAIRequest
from hf_runtime.api.openai.text import TextsField
from hf_runtime.settings import Task


class EmbeddingRequest(OpenAIRequest):
    """Texts, each to be given a vector."""

    tasks: ClassVar[tuple[Task, ...]] = ("feature-extraction",)

    input: TextsField
    dimensions: int | None = Field(None, ge=1)
    encoding_format: Literal["float", "base64"] = "float"
    truncation: bool | None = None

    @property
    def size(self) -> tuple[str, int]:
        return "input", len(self.input.texts)

    @property
    def items(self) -> list[tuple[Any, dict[str, Any]]]:
        given = self.model_dump(include={"dimensions", "truncation"}, exclude_none=True)
        return [(text, {"details": True, **given}) for text in self.input.texts]

    def place(self, index: int) -> str:
        return self.input.place("input", index)

    @property
    def names(self) -> Mapping[str, str]:
        # What has no details is a model that answers a vector a token.
        return {"details": "model"}

    def response(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """All vectors, (dimensions,) each."""
        data = [
            {"object": "embedding", "index": index, "embedding": self._encoded(answer["embedding"])}
            for index, answer in enumerate(answers)
        ]
        tokens = sum(answer["prompt_tokens"] for answer in answers)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": self.model, "usage": usage}

    def _encoded(self, embedding: npt.ArrayLike) -> npt.NDArray[np.float32] | str:
        vector = np.asarray(embedding, dtype="<f4")
        return vector if self.encoding_format == "float" else b64encode(vector.tobytes()).decode()
