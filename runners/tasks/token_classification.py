"""Token classification: entities of a text, or a label for each of its tokens.

The decoding is implemented here, because the steps of transformers' pipeline are methods that need a complete pipeline,
process one token at a time, and may be removed with the pipeline, like those for question answering. The tests compare
the answers with the pipeline's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from transformers import AutoModelForTokenClassification

from hf_runtime.contract.errors import InvalidRequest, LoadError
from hf_runtime.contract.tasks.token_classification import SPEC, AggregationStrategy, TokenClassificationParameters
from runners.engines.rows import Row
from runners.engines.runner import Job
from runners.models.padded_model import Encoding
from runners.tasks.encoder import EncoderRunner
from runners.tasks.labels import get_label
from runners.tasks.windows import TokenizedText, Window, count_tokens

Scores = npt.NDArray[np.float32]

#: Reductions of the scores (tokens, labels) of a word to (labels,); with "simple", each token is a word.
_WORD_SCORES: Mapping[AggregationStrategy, Callable[[Scores], Scores]] = {
    "simple": lambda scores: scores[0],
    "first": lambda scores: scores[0],
    "average": lambda scores: scores.mean(axis=0),
    "max": lambda scores: scores[scores.max(axis=1).argmax()],
}


@dataclass(frozen=True, slots=True)
class _Token:
    """Token and its characters `start` to `end`; both are None without offsets."""

    word: str
    start: int | None
    end: int | None
    is_subword: bool
    is_special: bool


@dataclass(frozen=True, slots=True)
class _Context:
    """Tokens of the text; the window of each row contains their indices as `position`."""

    tokens: list[_Token]
    windows: list[Window]
    strategy: AggregationStrategy
    ignored: frozenset[str]


class TokenClassificationRunner(EncoderRunner[TokenClassificationParameters, _Context, Scores]):
    """Runner whose answer is a list of the pipeline's dicts, in the order of the text.

    Without aggregation there is one `{"entity", "score", "index", "word", "start", "end"}` per token, otherwise one
    `{"entity_group", "score", "word", "start", "end"}` per entity.
    """

    spec = SPEC
    parameters_type = TokenClassificationParameters
    auto_class: ClassVar[Any] = AutoModelForTokenClassification
    example = "A first text."
    shorter_examples = ("A text", "A")

    #: Whether the vocabulary marks tokens that continue a word, as WordPiece does with ##.
    marks_subwords: bool

    def load(self) -> None:
        super().load()
        tokenizer = self.pretrained.tokenizer
        if not tokenizer.is_fast and self.settings.aggregation_strategy not in ("none", "simple"):
            raise LoadError(
                f"{self.settings.shown_uri} has a tokenizer without offsets, which cannot tell words: "
                "set AGGREGATION_STRATEGY to none or simple."
            )
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.marks_subwords = bool(backend and getattr(backend.model, "continuing_subword_prefix", None))

    @cached_property
    def defaults(self) -> dict[str, Any]:
        return {
            "aggregation_strategy": self.settings.aggregation_strategy,
            "truncation": self.settings.truncates_inputs,
        }

    def prepare(self, instance: Any, parameters: TokenClassificationParameters) -> Job[Encoding, _Context]:
        if not isinstance(instance, str):
            raise InvalidRequest("must be a string")
        self._check_combination(parameters)
        tokenizer = self.pretrained.tokenizer
        encoded = tokenizer(
            instance,
            truncation=parameters.truncation and parameters.stride is None,
            max_length=self.pretrained.max_length,
            return_special_tokens_mask=True,
            return_offsets_mapping=tokenizer.is_fast,
            verbose=False,
        )
        special, offsets = encoded.pop("special_tokens_mask"), encoded.pop("offset_mapping", None)
        rows, windows = self._split_windows(encoded, parameters.stride)
        tokens = self._describe_tokens(instance, encoded["input_ids"], special, offsets)
        ignored = frozenset(parameters.ignore_labels)
        return Job(rows, _Context(tokens, windows, parameters.aggregation_strategy, ignored))

    def forward(self, rows: Sequence[Row[Encoding]]) -> Sequence[Scores]:
        scores = self.run_model(rows).logits.float().softmax(-1).cpu().numpy()
        # Copies, because a slice would keep the scores of the whole batch alive.
        return [scores[number, : row.length].copy() for number, row in enumerate(rows)]

    def finish(self, job: Job[Encoding, _Context], outputs: Sequence[Scores]) -> Any:
        context = job.context
        found: list[dict[str, Any]] = []
        for window, scores in zip(context.windows, outputs, strict=True):
            positions = window["position"]
            kept = [n for n, p in enumerate(positions) if not context.tokens[p].is_special]
            if not kept:
                continue
            if context.strategy == "none":
                found += self._label_tokens(context.tokens, kept, scores)
            else:
                found += self._aggregate([context.tokens[positions[n]] for n in kept], scores[kept], context.strategy)
        found = [e for e in found if e.get("entity", e.get("entity_group")) not in context.ignored]
        return found if len(outputs) == 1 else _resolve_overlaps(found)

    def _check_combination(self, parameters: TokenClassificationParameters) -> None:
        """Refuse the combinations that the transformers pipeline refuses.

        For example, windows without aggregation would return the tokens in the overlap twice.
        """
        tokenizer, strategy = self.pretrained.tokenizer, parameters.aggregation_strategy
        if not tokenizer.is_fast and strategy not in ("none", "simple"):
            raise InvalidRequest(
                f"'{strategy}' needs a tokenizer that tells words, and this model's does not; use 'simple' or 'none'",
                field="parameters.aggregation_strategy",
            )
        if parameters.stride is None:
            return
        if not tokenizer.is_fast:
            raise InvalidRequest("this model's tokenizer cannot tell where windows overlap", field="parameters.stride")
        if strategy == "none":
            raise InvalidRequest(
                "windows need parameters.aggregation_strategy to be simple, first, average or max",
                field="parameters.stride",
            )
        if (limit := self.pretrained.max_length) is not None:
            capacity = limit - tokenizer.num_special_tokens_to_add()
            if parameters.stride >= capacity:
                raise InvalidRequest(
                    f"must be less than {capacity}, the tokens of text that the model reads at once",
                    field="parameters.stride",
                )

    def _split_windows(self, encoded: Any, stride: int | None) -> tuple[list[Row[Encoding]], list[Window]]:
        """Return the row of each window, and the positions of its tokens in the text.

        Every window has the special tokens at both ends. The windows equal those of the tokenizer, but have the offsets
        of the whole text: a tokenizer that adds a space to a text would count it at the start of every window.
        """
        length, limit = len(encoded["input_ids"]), self.pretrained.max_length
        positions = {"position": range(length)}
        if stride is None or limit is None or length <= limit:
            encoding = dict(encoded)
            self.check_length(encoding)
            return [Row(encoding, length)], [Window(TokenizedText(positions, (), range(length), ()), 0, length)]
        body = [p for p, sequence in enumerate(encoded.sequence_ids()) if sequence is not None]
        head, tail = range(body[0]), range(body[-1] + 1, length)
        fixed = len(head) + len(tail)
        capacity = limit - fixed
        starts = range(0, len(body) - stride, capacity - stride)
        self.check_rows(
            len(starts),
            count_tokens(starts, fixed, capacity, len(body)),
            "parameters.stride",
            f"{stride} makes {len(starts)} windows of {length} tokens of text",
        )
        text, indices = TokenizedText(encoded, head, body, tail), TokenizedText(positions, head, body, tail)
        spans = [(start, min(start + capacity, len(body))) for start in starts]
        rows: list[Row[Encoding]] = [Row(Window(text, start, stop), fixed + stop - start) for start, stop in spans]
        return rows, [Window(indices, start, stop) for start, stop in spans]

    def _describe_tokens(
        self, text: str, ids: list[int], special: list[int], offsets: list[tuple[int, int]] | None
    ) -> list[_Token]:
        tokenizer = self.pretrained.tokenizer
        words = tokenizer.convert_ids_to_tokens(ids)
        if offsets is None:
            return [_Token(word, None, None, False, bool(mask)) for word, mask in zip(words, special, strict=True)]
        tokens = []
        for word, token_id, (start, end), mask in zip(words, ids, offsets, special, strict=True):
            # The rules of the transformers pipeline, with their faults, so that words are split the same way.
            if token_id == tokenizer.unk_token_id:
                word, is_subword = text[start:end], False
            elif self.marks_subwords:
                is_subword = len(word) != end - start
            else:
                is_subword = start > 0 and " " not in text[start - 1 : start + 1]
            tokens.append(_Token(word, start, end, is_subword, bool(mask)))
        return tokens

    def _label_tokens(self, tokens: list[_Token], kept: list[int], scores: Scores) -> list[dict[str, Any]]:
        config = self.pretrained.model.config
        return [
            {
                "entity": get_label(config, int(best)),
                "score": float(scores[index, best]),
                "index": index,
                "word": tokens[index].word,
                "start": tokens[index].start,
                "end": tokens[index].end,
            }
            for index, best in zip(kept, scores[kept].argmax(axis=1), strict=True)
        ]

    def _aggregate(self, tokens: list[_Token], scores: Scores, strategy: AggregationStrategy) -> list[dict[str, Any]]:
        """Group tokens into words with one label each, and adjacent words of one tag into entities."""
        words = [n for n, token in enumerate(tokens) if n == 0 or strategy == "simple" or not token.is_subword]
        word_scores = np.stack([_WORD_SCORES[strategy](part) for part in np.split(scores, words[1:])])
        config = self.pretrained.model.config
        labels = [str(get_label(config, int(best))) for best in word_scores.argmax(axis=1)]
        values = word_scores.max(axis=1)
        begins = [n for n, label in enumerate(labels) if n == 0 or _begins_entity(label, labels[n - 1])]
        entities = []
        for begin, end in pairwise([*begins, len(labels)]):
            part = tokens[words[begin] : words[end] if end < len(words) else None]
            entities.append(
                {
                    "entity_group": labels[begin].split("-", 1)[-1],
                    "score": float(values[begin:end].mean()),
                    # Decoded in one call: the pipeline decodes words one by one, and loses spaces and accents.
                    "word": self.pretrained.tokenizer.convert_tokens_to_string([token.word for token in part]),
                    "start": part[0].start,
                    "end": part[-1].end,
                }
            )
        return entities


def _begins_entity(label: str, previous: str) -> bool:
    """Return true if a word begins a new entity.

    As in the pipeline, a label without B- or I- continues the previous entity.
    """
    return label.startswith("B-") or _tag(label) != _tag(previous)


def _tag(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _resolve_overlaps(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the longest of overlapping entities, and of equally long ones the best-scored."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda e: e["start"]):
        if not kept or entity["start"] >= kept[-1]["end"]:
            kept.append(entity)
        elif _rank(entity) > _rank(kept[-1]):
            kept[-1] = entity
    return kept


def _rank(entity: dict[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]


#: Runner of this task.
RUNNER = TokenClassificationRunner
