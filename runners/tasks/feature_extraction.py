"""Feature extraction: one vector per token of a text, or one for the whole text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModel, AutoModelForTextEncoding

from hf_runtime.contract.errors import InvalidRequest, LoadError
from hf_runtime.contract.parameters import token_ids
from hf_runtime.contract.signature import ANSWER, ATTENTION_MASK, TEXT_OR_TOKENS_TO_JSON, Signature, TensorSpec
from hf_runtime.contract.tasks.feature_extraction import SPEC, FeatureExtractionParameters, Pooling
from runners.engines.rows import Row
from runners.engines.runner import Job
from runners.models.padded_model import Encoding
from runners.models.pretrained import Pretrained, load_pretrained
from runners.models.sentence_transformers import SentenceEmbedding, read_sentence_embedding
from runners.storage.checkpoint import read_local_config
from runners.storage.fetch import fetch
from runners.tasks.encoder import EncoderRunner

logger = logging.getLogger(__name__)

#: Encoder-decoder families whose embedding models are saved without the decoder that AutoModel requires.
_SAVED_WITHOUT_DECODER = frozenset({"t5", "mt5", "umt5"})

#: Reductions of the token vectors (tokens, hidden) of a text to one vector (hidden,).
_POOL: Mapping[Pooling, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda tokens: tokens.mean(0),
    "cls": lambda tokens: tokens[0],
    "max": lambda tokens: tokens.amax(0),
    "last_token": lambda tokens: tokens[-1],
}


@dataclass(frozen=True, slots=True)
class _Context:
    pooled: bool
    normalize: bool
    dimensions: int | None
    details: bool


@dataclass(frozen=True, slots=True)
class _VectorSpec:
    """Shape of a model's output.

    Attributes:
        size: number of values per vector.
        unit: part of the text that a vector represents: each token, the whole text, or another number of parts.
    """

    size: int
    unit: Literal["tokens", "parts", "text"]


class FeatureExtractionRunner(EncoderRunner[FeatureExtractionParameters, _Context, npt.NDArray[np.float32]]):
    """Runner whose answer is a float32 array: (1, tokens, hidden), or (hidden,) if pooled.

    An instance is a text or a list of token ids, special tokens included.
    """

    spec = SPEC
    parameters_type = FeatureExtractionParameters
    auto_class: ClassVar[Any] = AutoModel
    example = "A first text."
    shorter_examples = ("A text", "A")

    embedding: SentenceEmbedding
    #: Defaults for requests without these parameters.
    pooling: Pooling
    normalize: bool

    def load(self) -> None:
        self.checkpoint = fetch(self.settings)
        self.embedding = read_sentence_embedding(self.checkpoint.folder)
        self._set_defaults()
        loaded = load_pretrained(
            self._auto_class(), self.checkpoint, self.settings, self.compiler,
            reads_batches=True, fallbacks=self.fallbacks,
        )  # fmt: skip
        self.pretrained = _keep_encoder(loaded, self.embedding.max_length)

    @property
    def signature(self) -> Signature:
        size = self._vector_spec.size
        if self.pooling == "none":
            outputs: tuple[TensorSpec, ...] = (TensorSpec(ANSWER.name, "FP32", (-1, -1, size)), ATTENTION_MASK)
        else:
            outputs = (TensorSpec(ANSWER.name, "FP32", (-1, size)),)
        return Signature(TEXT_OR_TOKENS_TO_JSON.inputs, TEXT_OR_TOKENS_TO_JSON.instances, outputs)

    @cached_property
    def defaults(self) -> dict[str, Any]:
        return {"truncation": self.settings.truncates_inputs}

    @cached_property
    def _vector_spec(self) -> _VectorSpec:
        """Shape of the model's output, found with an example."""
        encoding = self._encode(self.example, pooled=False, truncation=True)
        states: torch.Tensor = self.run_model([Row(encoding, len(encoding["input_ids"]))])[0]
        per_token = states.dim() == 3 and states.shape[1] == len(encoding["input_ids"])
        return _VectorSpec(states.shape[-1], "tokens" if per_token else "parts" if states.dim() == 3 else "text")

    def prepare(self, instance: Any, parameters: FeatureExtractionParameters) -> Job[Encoding, _Context]:
        pooling = parameters.pooling or self.pooling
        pooled = pooling != "none"
        if pooled and self._vector_spec.unit != "tokens":
            has = "one vector for the text" if self._vector_spec.unit == "text" else "fewer vectors than tokens"
            raise InvalidRequest(
                f"this model gives {has}, which cannot be pooled; leave it out", field="parameters.pooling"
            )
        if parameters.normalize and not pooled:
            raise InvalidRequest(
                "the vectors of tokens are not normalized; set parameters.pooling to mean, cls, max or last_token",
                field="parameters.normalize",
            )
        if parameters.details and not pooled:
            raise InvalidRequest(
                "this model gives a vector for each token, not one for the text; set "
                "parameters.pooling to mean, cls, max or last_token",
                field="parameters.details",
            )
        if parameters.dimensions is not None:
            self._check_dimensions(parameters.dimensions, pooled)
        count = self._count_kept_tokens(parameters.truncate_prompt_tokens)
        truncation = parameters.truncation or parameters.truncate_prompt_tokens is not None
        encoding = self._encode(instance, pooled, truncation, count)
        self.check_length(encoding)
        normalize = self.normalize if parameters.normalize is None else parameters.normalize
        row = Row(encoding, len(encoding["input_ids"]), key=pooling)
        return Job([row], _Context(pooled, normalize and pooled, parameters.dimensions, parameters.details))

    def _count_kept_tokens(self, count: int | None) -> int | None:
        """Return the most tokens of an input that is truncated; None without a limit."""
        if count is None or count < 0:
            return self.pretrained.max_length
        special = self.pretrained.tokenizer.num_special_tokens_to_add()
        if count <= special:
            raise InvalidRequest(
                f"must be -1 or more than {special}, which are the special tokens of an input",
                field="parameters.truncate_prompt_tokens",
            )
        limit = self.pretrained.max_length
        return count if limit is None else min(count, limit)

    def _encode(self, instance: Any, pooled: bool, truncation: bool, count: int | None = None) -> Encoding:
        longest = self.pretrained.max_length if count is None else count
        if isinstance(instance, list):
            ids = token_ids(instance, self.pretrained.tokens)
            ids = ids[:longest] if truncation else ids
            zeros = {"token_type_ids": [0] * len(ids)}
            names = self.pretrained.tokenizer.model_input_names
            inputs = {"input_ids": ids, "attention_mask": [1] * len(ids), **zeros}
            return {name: inputs[name] for name in inputs if name in names}
        if not isinstance(instance, str):
            raise InvalidRequest("must be a string or a list of token ids")
        # Models with a prompt are trained with it for embeddings of a whole text, not for vectors of tokens.
        text = self.embedding.prompt + instance if pooled else instance
        encoding: Encoding = dict(
            self.pretrained.tokenizer(
                text.lower() if self.embedding.lower_case else text,
                truncation=truncation,
                max_length=longest,
            )
        )
        return encoding

    def forward(self, rows: Sequence[Row[Encoding]]) -> Sequence[npt.NDArray[np.float32]]:
        # The first output contains the hidden states of the last layer, whatever its name is.
        states = self.run_model(rows)[0].float()
        if self._vector_spec.unit != "tokens":
            # Such rows have equal length or are alone in the batch, so there is no padding to remove.
            return [part.cpu().numpy().copy() for part in states]
        tokens = [states[number, : row.length] for number, row in enumerate(rows)]
        pooling = rows[0].key
        if pooling == "none":
            # Copies, because a slice would keep the states of the whole batch alive.
            return [part.cpu().numpy().copy() for part in tokens]
        pool = _POOL[pooling]  # type: ignore[index]  # `prepare` sets the key
        return list(torch.stack([pool(part) for part in tokens]).cpu().numpy())

    def finish(self, job: Job[Encoding, _Context], outputs: Sequence[npt.NDArray[np.float32]]) -> Any:
        (vector,) = outputs
        if not job.context.pooled:
            return vector[np.newaxis]
        vector = vector[: job.context.dimensions]
        if job.context.normalize:
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return {"embedding": vector, "prompt_tokens": job.rows[0].length} if job.context.details else vector

    def _check_dimensions(self, dimensions: int, pooled: bool) -> None:
        """Reject `dimensions` unless vectors are pooled and can be shortened.

        Only the vectors of Matryoshka models (https://arxiv.org/abs/2205.13147) can be shortened. Such models are
        marked in config.json, which is read as vLLM does.

        Raises:
            InvalidRequest: the vectors cannot have this number of dimensions.
        """
        config = self.pretrained.model.config
        size = self._vector_spec.size
        if not pooled:
            raise InvalidRequest(
                "only the vector of a text is cut; set parameters.pooling", field="parameters.dimensions"
            )
        if dimensions == size:
            return
        allowed: list[int] | None = getattr(config, "matryoshka_dimensions", None)
        matryoshka = bool(allowed or getattr(config, "is_matryoshka", False))
        if not (matryoshka if self.settings.matryoshka is None else self.settings.matryoshka):
            raise InvalidRequest(
                f"this model's vectors have {size} and were not made to be cut (MATRYOSHKA)",
                field="parameters.dimensions",
            )
        if dimensions > size or (allowed and dimensions not in allowed):
            known = ", ".join(map(str, sorted(allowed))) if allowed else f"up to {size}"
            raise InvalidRequest(f"{dimensions} given, this model has {known}", field="parameters.dimensions")

    def _set_defaults(self) -> None:
        """Set the default pooling and normalization: the operator's, or the model's, or none.

        Raises:
            LoadError: the model's files require an unsupported step. Vectors without it would look right but be wrong,
                so the operator must set POOLING to get them.
        """
        if self.embedding.unsupported is not None:
            uri, what = self.settings.shown_uri, self.embedding.unsupported
            if self.settings.pooling is None:
                raise LoadError(
                    f"{uri} makes its sentence embeddings with {what}, which is not computed here; choose another "
                    "model, or set POOLING (none, mean, cls, max or last_token) for embeddings without it."
                )
            logger.warning("%s: POOLING is set, so its embeddings leave out %s.", uri, what)
        as_text = self.settings.text_embedding and self.embedding.pooling is None
        self.pooling = self.settings.pooling or self.embedding.pooling or ("mean" if as_text else "none")
        normalize = self.embedding.normalize or as_text
        self.normalize = normalize if self.settings.normalize is None else self.settings.normalize
        if self.settings.normalize and self.pooling == "none":
            logger.warning("NORMALIZE has no effect on requests without pooling; set POOLING for one vector a text.")

    def _auto_class(self) -> Any:
        config = read_local_config(self.checkpoint) or {}
        return AutoModelForTextEncoding if config.get("model_type") in _SAVED_WITHOUT_DECODER else self.auto_class


def _keep_encoder(loaded: Pretrained, max_length: int | None) -> Pretrained:
    """Return a model's encoder, with the smaller of the two maximum lengths."""
    model: Any = loaded.model
    if model.config.is_encoder_decoder:
        whole, model = model, model.get_encoder()
        for name in ("config", "dtype", "device"):
            if not hasattr(model, name):  # FSMT's encoder is not a PreTrainedModel
                setattr(model, name, getattr(whole, name))
    if hasattr(model.config, "use_cache"):
        # Without this, a decoder would keep keys and values for tokens that are never generated.
        model.config.use_cache = False
    limits = [limit for limit in (loaded.max_length, max_length) if limit is not None]
    return replace(loaded, model=model, max_length=min(limits, default=None))


#: Runner of this task.
RUNNER = FeatureExtractionRunner
