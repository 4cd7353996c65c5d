"""Feature extraction: a vector for each token of a text, or one for the text."""

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
from runners.storage.checkpoint import local_config
from runners.storage.fetch import fetch
from runners.tasks.encoder import EncoderRunner

logger = logging.getLogger(__name__)

#: Encoder-decoder families whose embedding models leave out the decoder, which AutoModel would then miss.
_SAVED_WITHOUT_DECODER = frozenset({"t5", "mt5", "umt5"})

#: From one text's token vectors (tokens, hidden) to its own (hidden,).
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
class _Vectors:
    """Vectors that a model gives.

    Attributes:
        size: values of each.
        of: what they stand for: one each of the tokens, one of the whole text, or another number of parts of it.
    """

    size: int
    of: Literal["tokens", "parts", "text"]


class FeatureExtractionRunner(EncoderRunner[FeatureExtractionParameters, _Context, npt.NDArray[np.float32]]):
    """The answer is a float32 array: (1, tokens, hidden) for tokens, (hidden,) for a text.

    An instance is a text or its tokens, special ones included.
    """

    spec = SPEC
    parameters_type = FeatureExtractionParameters
    auto_class: ClassVar[Any] = AutoModel
    example = "A first text."
    shorter_examples = ("A text", "A")

    embedding: SentenceEmbedding
    #: What a request gets that asks for nothing.
    pooling: Pooling
    normalize: bool

    def load(self) -> None:
        self.checkpoint = fetch(self.settings)
        self.embedding = read_sentence_embedding(self.checkpoint.folder)
        self._choose_defaults()
        loaded = load_pretrained(
            self._auto_class(), self.checkpoint, self.settings, self.compiler,
            reads_batches=True, fallbacks=self.fallbacks,
        )  # fmt: skip
        self.pretrained = _encoder_alone(loaded, self.embedding.max_length)

    @property
    def signature(self) -> Signature:
        size = self._vectors.size
        if self.pooling == "none":
            outputs: tuple[TensorSpec, ...] = (TensorSpec(ANSWER.name, "FP32", (-1, -1, size)), ATTENTION_MASK)
        else:
            outputs = (TensorSpec(ANSWER.name, "FP32", (-1, size)),)
        return Signature(TEXT_OR_TOKENS_TO_JSON.inputs, TEXT_OR_TOKENS_TO_JSON.instances, outputs)

    @property
    def defaults(self) -> dict[str, Any]:
        return {"truncation": self.settings.truncates_texts}

    @cached_property
    def _vectors(self) -> _Vectors:
        """The model's vectors, as it gives them for an example."""
        encoding = self._encoding(self.example, pooled=False, truncation=True)
        states: torch.Tensor = self.run_model([Row(encoding, len(encoding["input_ids"]))])[0]
        one_a_token = states.dim() == 3 and states.shape[1] == len(encoding["input_ids"])
        return _Vectors(states.shape[-1], "tokens" if one_a_token else "parts" if states.dim() == 3 else "text")

    def prepare(self, instance: Any, parameters: FeatureExtractionParameters) -> Job[Encoding, _Context]:
        pooling = parameters.pooling or self.pooling
        pooled = pooling != "none"
        if pooled and self._vectors.of != "tokens":
            has = "one vector for the text" if self._vectors.of == "text" else "fewer vectors than tokens"
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
        encoding = self._encoding(instance, pooled, parameters.truncation)
        self.check_length(encoding)
        normalize = self.normalize if parameters.normalize is None else parameters.normalize
        row = Row(encoding, len(encoding["input_ids"]), key=pooling)
        return Job([row], _Context(pooled, normalize and pooled, parameters.dimensions, parameters.details))

    def _encoding(self, instance: Any, pooled: bool, truncation: bool) -> Encoding:
        if isinstance(instance, list):
            ids = token_ids(instance, self.pretrained.tokens)
            ids = ids[: self.pretrained.max_length] if truncation else ids
            zeros = {"token_type_ids": [0] * len(ids)}
            names = self.pretrained.tokenizer.model_input_names
            known = {"input_ids": ids, "attention_mask": [1] * len(ids), **zeros}
            return {name: known[name] for name in known if name in names}
        if not isinstance(instance, str):
            raise InvalidRequest("must be a string or a list of token ids")
        # A prompt belongs to the embedding of a text as the model was trained for it, not to its tokens.
        text = self.embedding.prompt + instance if pooled else instance
        encoding: Encoding = dict(
            self.pretrained.tokenizer(
                text.lower() if self.embedding.lower_case else text,
                truncation=truncation,
                max_length=self.pretrained.max_length,
            )
        )
        return encoding

    def forward(self, rows: Sequence[Row[Encoding]]) -> Sequence[npt.NDArray[np.float32]]:
        # The first output is the hidden state of the last layer, whatever it is called.
        states = self.run_model(rows)[0].float()
        if self._vectors.of != "tokens":
            # Rows of one length, or alone: none of it is padding.
            return [part.cpu().numpy().copy() for part in states]
        tokens = [states[number, : row.length] for number, row in enumerate(rows)]
        pooling = rows[0].key
        if pooling == "none":
            # Copies, because a slice would keep the states of the whole batch alive.
            return [part.cpu().numpy().copy() for part in tokens]
        pool = _POOL[pooling]  # type: ignore[index]  # the key is what `prepare` put there
        return list(torch.stack([pool(part) for part in tokens]).cpu().numpy())

    def finish(self, job: Job[Encoding, _Context], outputs: Sequence[npt.NDArray[np.float32]]) -> Any:
        (vector,) = outputs
        if not job.context.pooled:
            return vector[np.newaxis]
        vector = vector[: job.context.dimensions]
        if job.context.normalize:
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return {"embedding": vector, "prompt_tokens": job.rows[0].length} if job.context.details else vector

    def _check_dimensions(self, wanted: int, pooled: bool) -> None:
        """Only a Matryoshka model was trained so that the first dimensions alone mean something.

        Source: https://arxiv.org/abs/2205.13147; models say so in config.json, as vLLM reads it.
        """
        config = self.pretrained.model.config
        size = self._vectors.size
        if not pooled:
            raise InvalidRequest(
                "only the vector of a text is cut; set parameters.pooling", field="parameters.dimensions"
            )
        if wanted == size:
            return
        chosen: list[int] | None = getattr(config, "matryoshka_dimensions", None)
        matryoshka = bool(chosen or getattr(config, "is_matryoshka", False))
        if not (matryoshka if self.settings.matryoshka is None else self.settings.matryoshka):
            raise InvalidRequest(
                f"this model's vectors have {size} and were not made to be cut (MATRYOSHKA)",
                field="parameters.dimensions",
            )
        if wanted > size or (chosen and wanted not in chosen):
            known = ", ".join(map(str, sorted(chosen))) if chosen else f"up to {size}"
            raise InvalidRequest(f"{wanted} given, this model has {known}", field="parameters.dimensions")

    def _choose_defaults(self) -> None:
        """The operator's choice, else that of the model's files, else vectors of tokens.

        Raises:
            LoadError: the files ask for what is not computed here; another vector in its place would look right and
                be wrong, so only an explicit POOLING gives one.
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
        config = local_config(self.checkpoint) or {}
        return AutoModelForTextEncoding if config.get("model_type") in _SAVED_WITHOUT_DECODER else self.auto_class


def _encoder_alone(loaded: Pretrained, max_length: int | None) -> Pretrained:
    """The part of a model that reads, with the shorter of the two maximal lengths."""
    model: Any = loaded.model
    if model.config.is_encoder_decoder:
        whole, model = model, model.get_encoder()
        for name in ("config", "dtype", "device"):
            if not hasattr(model, name):  # FSMT's, which is no model by itself
                setattr(model, name, getattr(whole, name))
    if hasattr(model.config, "use_cache"):
        # A decoder would keep keys and values for a continuation that never comes.
        model.config.use_cache = False
    limits = [limit for limit in (loaded.max_length, max_length) if limit is not None]
    return replace(loaded, model=model, max_length=min(limits, default=None))


#: Computes the task.
RUNNER = FeatureExtractionRunner
