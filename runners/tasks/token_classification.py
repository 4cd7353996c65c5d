"""Token classification: entities of a text, or a label for each of its tokens.

The decoding is written here rather than borrowed from transformers' pipeline: the pipeline's steps are methods that
need a whole pipeline around them, go token by token, and leave the library when the pipeline does, as that for question
answering did. The tests hold the answers against the pipeline's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from runners.tasks.labels import label_of
from runners.tasks.windows import Whole, Window, tokens_of

Scores = npt.NDArray[np.float32]

#: From the scores (tokens, labels) of a word to its own (labels,); "simple" and "none" know no words of many tokens.
_WORD_SCORES: Mapping[AggregationStrategy, Callable[[Scores], Scores]] = {
    "simple": lambda scores: scores[0],
    "first": lambda scores: scores[0],
    "average": lambda scores: scores.mean(axis=0),
    "max": lambda scores: scores[scores.max(axis=1).argmax()],
}


@dataclass(frozen=True, slots=True)
class _Token:
    """Characters `start` to `end` of the text; both None if the tokenizer does not tell."""

    word: str
    start: int | None
    end: int | None
    is_subword: bool
    is_special: bool


@dataclass(frozen=True, slots=True)
class _Context:
    """`windows` holds for each row, as `position`, which of the text's `tokens` it is made of."""

    tokens: list[_Token]
    windows: list[Window]
    strategy: AggregationStrategy
    ignored: frozenset[str]


class TokenClassificationRunner(EncoderRunner[TokenClassificationParameters, _Context, Scores]):
    """The answer is a list in the order of the text, of the pipeline's own dicts.

    Without aggregation these are `{"entity", "score", "index", "word", "start", "end"}`, one a token, otherwise
    `{"entity_group", "score", "word", "start", "end"}`, one an entity.
    """

    spec = SPEC
    parameters_type = TokenClassificationParameters
    auto_class: ClassVar[Any] = AutoModelForTokenClassification
    example = "A first text."
    shorter_examples = ("A text", "A")

    #: Whether the vocabulary marks the tokens that continue a word, as WordPiece does with ##.
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

    @property
    def defaults(self) -> dict[str, Any]:
        return {"aggregation_strategy": self.settings.aggregation_strategy, "truncation": self.settings.truncates_texts}

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
        rows, windows = self._windows(encoded, parameters.stride)
        tokens = self._tokens(instance, encoded["input_ids"], special, offsets)
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
                found += self._labelled(context.tokens, kept, scores)
            else:
                found += self._entities([context.tokens[positions[n]] for n in kept], scores[kept], context.strategy)
        found = [e for e in found if e.get("entity", e.get("entity_group")) not in context.ignored]
        return found if len(outputs) == 1 else _without_overlaps(found)

    def _check_combination(self, parameters: TokenClassificationParameters) -> None:
        """What the pipeline refuses too: windows of plain tokens would give those in the overlap twice."""
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
            room = limit - tokenizer.num_special_tokens_to_add()
            if parameters.stride >= room:
                raise InvalidRequest(
                    f"must be less than {room}, the tokens of text that the model reads at once",
                    field="parameters.stride",
                )

    def _windows(self, encoded: Any, stride: int | None) -> tuple[list[Row[Encoding]], list[Window]]:
        """The row of each window and positions of its tokens; every window has the special tokens at both ends.

        The same windows as the tokenizer's own, but with the offsets of the whole text: a tokenizer that adds a space
        to texts counts it in at the start of every window.
        """
        length, limit = len(encoded["input_ids"]), self.pretrained.max_length
        positions = {"position": range(length)}
        if stride is None or limit is None or length <= limit:
            encoding = dict(encoded)
            self.check_length(encoding)
            return [Row(encoding, length)], [Window(Whole(positions, (), range(length), ()), 0, length)]
        inside = [p for p, sequence in enumerate(encoded.sequence_ids()) if sequence is not None]
        head, tail = range(inside[0]), range(inside[-1] + 1, length)
        room = limit - len(head) - len(tail)
        starts = range(0, len(inside) - stride, room - stride)
        around = len(head) + len(tail)
        self.check_rows(
            len(starts),
            tokens_of(starts, around, room, len(inside)),
            "parameters.stride",
            f"{stride} makes {len(starts)} windows of {length} tokens of text",
        )
        texts, places = Whole(encoded, head, inside, tail), Whole(positions, head, inside, tail)
        spans = [(start, min(start + room, len(inside))) for start in starts]
        rows: list[Row[Encoding]] = [Row(Window(texts, start, stop), around + stop - start) for start, stop in spans]
        return rows, [Window(places, start, stop) for start, stop in spans]

    def _tokens(
        self, text: str, ids: list[int], special: list[int], offsets: list[tuple[int, int]] | None
    ) -> list[_Token]:
        tokenizer = self.pretrained.tokenizer
        words = tokenizer.convert_ids_to_tokens(ids)
        if offsets is None:
            return [_Token(word, None, None, False, bool(mask)) for word, mask in zip(words, special, strict=True)]
        tokens = []
        for word, token_id, (start, end), mask in zip(words, ids, offsets, special, strict=True):
            # The pipeline's rules, kept with their faults so that words are cut as people know them.
            if token_id == tokenizer.unk_token_id:
                word, is_subword = text[start:end], False
            elif self.marks_subwords:
                is_subword = len(word) != end - start
            else:
                is_subword = start > 0 and " " not in text[start - 1 : start + 1]
            tokens.append(_Token(word, start, end, is_subword, bool(mask)))
        return tokens

    def _labelled(self, tokens: list[_Token], kept: list[int], scores: Scores) -> list[dict[str, Any]]:
        config = self.pretrained.model.config
        return [
            {
                "entity": label_of(config, int(best)),
                "score": float(scores[index, best]),
                "index": index,
                "word": tokens[index].word,
                "start": tokens[index].start,
                "end": tokens[index].end,
            }
            for index, best in zip(kept, scores[kept].argmax(axis=1), strict=True)
        ]

    def _entities(self, tokens: list[_Token], scores: Scores, strategy: AggregationStrategy) -> list[dict[str, Any]]:
        """Tokens make words, which have one label each, and neighbouring words of one tag make an entity."""
        words = [n for n, token in enumerate(tokens) if n == 0 or strategy == "simple" or not token.is_subword]
        word_scores = np.stack([_WORD_SCORES[strategy](part) for part in np.split(scores, words[1:])])
        config = self.pretrained.model.config
        labels = [str(label_of(config, int(best))) for best in word_scores.argmax(axis=1)]
        values = word_scores.max(axis=1)
        begins = [n for n, label in enumerate(labels) if n == 0 or _begins_entity(label, labels[n - 1])]
        entities = []
        for begin, end in pairwise([*begins, len(labels)]):
            part = tokens[words[begin] : words[end] if end < len(words) else None]
            entities.append(
                {
                    "entity_group": labels[begin].split("-", 1)[-1],
                    "score": float(values[begin:end].mean()),
                    # All tokens at once: the pipeline decodes words, then words of words, and loses spaces and accents.
                    "word": self.pretrained.tokenizer.convert_tokens_to_string([token.word for token in part]),
                    "start": part[0].start,
                    "end": part[-1].end,
                }
            )
        return entities


def _begins_entity(label: str, previous: str) -> bool:
    """Labels without B- or I- go on, as the pipeline has it."""
    return label.startswith("B-") or _tag(label) != _tag(previous)


def _tag(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _without_overlaps(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of entities that windows share or cut, the longest, and of equally long ones the surest."""
    chosen: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda e: e["start"]):
        if not chosen or entity["start"] >= chosen[-1]["end"]:
            chosen.append(entity)
        elif _rank(entity) > _rank(chosen[-1]):
            chosen[-1] = entity
    return chosen


def _rank(entity: dict[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]


#: Computes the task.
RUNNER = TokenClassificationRunner
