"""Extractive question answering: the spans of a context that answer a question.

transformers 5 has no pipeline for it. Parameters, scores and answers are those of the pipeline of transformers 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import ValidationError
from transformers import AutoModelForQuestionAnswering

from hf_runtime.contract.errors import InvalidRequest, LoadError
from hf_runtime.contract.tasks.question_answering import SPEC, Question, QuestionAnsweringParameters
from hf_runtime.contract.validation import make_invalid_request
from runners.engines.rows import Row
from runners.engines.runner import Job
from runners.models.padded_model import Encoding
from runners.tasks.encoder import EncoderRunner
from runners.tasks.windows import TokenizedText, Window, count_tokens

_Indices = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _ContextWindow:
    """Mapping of one row's tokens to characters of the context.

    Attributes:
        first: position in the row of the first context token.
        starts: for each context token, the start of an answer that begins with it, as a character index.
        ends: for each context token, the end (exclusive) of an answer that ends with it.
        null: position of the token that means "no answer"; None without one.
    """

    first: int
    starts: _Indices
    ends: _Indices
    null: int | None


@dataclass(frozen=True, slots=True)
class _Context:
    text: str
    windows: list[_ContextWindow]
    parameters: QuestionAnsweringParameters


class QuestionAnsweringRunner(EncoderRunner[QuestionAnsweringParameters, _Context, _Floats]):
    """Runner whose answer is `{"score", "start", "end", "answer"}`, or a list if `top_k` > 1.

    A list is sorted by score, best first. `answer` equals `context[start:end]`; it is empty if the model considers the
    question unanswerable.
    """

    spec = SPEC
    parameters_type = QuestionAnsweringParameters
    auto_class: ClassVar[Any] = AutoModelForQuestionAnswering
    example: ClassVar[Any] = {"question": "Which text?", "context": "A first text."}
    shorter_examples = ({"question": "A", "context": "A"},)

    def load(self) -> None:
        super().load()
        if not self.pretrained.tokenizer.is_fast:
            raise LoadError(
                f"{self.settings.shown_uri} has a tokenizer that does not tell where in a text its "
                "tokens are: answers cannot be located in the context."
            )

    def prepare(self, instance: Any, parameters: QuestionAnsweringParameters) -> Job[Encoding, _Context]:
        parsed = _parse(instance)
        self.check_answers(parameters.top_k, "parameters.top_k", f"asks for {parameters.top_k} answers")
        tokenizer = self.pretrained.tokenizer
        # Models that pad on the left, such as XLNet, are trained with the question after the context.
        question_first = tokenizer.padding_side == "right"
        pair = (parsed.question, parsed.context) if question_first else (parsed.context, parsed.question)
        encoded = tokenizer(*pair, return_offsets_mapping=True, verbose=False)
        sequences = encoded.sequence_ids()
        question = [p for p, sequence in enumerate(sequences) if sequence == (0 if question_first else 1)]
        context = [p for p, sequence in enumerate(sequences) if sequence == (1 if question_first else 0)]
        for name, positions in (("question", question), ("context", context)):
            if not positions:
                raise InvalidRequest("has no token for the model to read", field=name)

        dropped = set(question[parameters.max_question_len :]) if parameters.max_question_len else set()
        fixed = [p for p in range(len(sequences)) if sequences[p] != sequences[context[0]] and p not in dropped]
        head, tail = [p for p in fixed if p < context[0]], [p for p in fixed if p > context[-1]]
        capacity, stride = self._choose_window(len(fixed), len(question), parameters)
        starts = range(0, max(len(context) - stride, 1), capacity - stride)
        self.check_rows(
            len(starts),
            count_tokens(starts, len(fixed), capacity, len(context)),
            "context",
            f"{len(context)} tokens make {len(starts)} windows of {capacity} with parameters.doc_stride {stride}",
        )
        characters = _answer_bounds(encoded, context, parameters.align_to_words)
        del encoded["offset_mapping"]
        text = TokenizedText(encoded, head, context, tail)
        null_in_head, null_in_tail = (
            next((n for n, p in enumerate(part) if sequences[p] is None and ids[n] == tokenizer.cls_token_id), None)
            for part, ids in ((head, text.head["input_ids"]), (tail, text.tail["input_ids"]))
        )
        rows: list[Row[Encoding]] = []
        windows = []
        for start in starts:
            stop = min(start + capacity, len(context))
            null = null_in_head
            if null_in_head is None and null_in_tail is not None:
                null = len(head) + stop - start + null_in_tail
            rows.append(Row(Window(text, start, stop), len(fixed) + stop - start))
            windows.append(_ContextWindow(len(head), characters[start:stop, 0], characters[start:stop, 1], null))
        return Job(rows, _Context(parsed.context, windows, parameters))

    def forward(self, rows: Sequence[Row[Encoding]]) -> Sequence[_Floats]:
        output = self.run_model(rows)
        logits = torch.stack([output.start_logits, output.end_logits], dim=1).float().cpu().numpy()
        # Copies, because a slice would keep the logits of the whole batch alive.
        return [logits[number, :, : row.length].copy() for number, row in enumerate(rows)]

    def finish(self, job: Job[Encoding, _Context], outputs: Sequence[_Floats]) -> Any:
        """Merge the spans of all windows.

        Spans of subwords that align to the same words are one answer, and their probabilities are added, as in
        transformers 4. transformers 4 also adds equal text at other positions and the same span in the next window, so
        that scores can exceed 1. Here, another position is another answer, and the best window counts.
        """
        text, parameters = job.context.text, job.context.parameters
        best: dict[tuple[int, int], float] = {}
        null_score = 1.0
        for window, logits in zip(job.context.windows, outputs, strict=True):
            scores, null = _span_scores(logits, window, parameters.max_answer_len)
            null_score = min(null_score, null)
            found: dict[tuple[int, int], float] = {}
            # Several spans of subwords may be one answer.
            count = parameters.top_k * 2 + 10 if parameters.align_to_words else parameters.top_k
            for first, last, score in _best_spans(scores, count):
                span = int(window.starts[first]), int(window.ends[last])
                found[span] = found.get(span, 0.0) + score
            for span, score in found.items():
                best[span] = max(best.get(span, 0.0), score)
            if len(best) > 4 * parameters.top_k + 1000:
                # Only the best `top_k` spans can become answers, whatever the next windows contain.
                best = dict(nlargest(parameters.top_k, best.items(), key=itemgetter(1)))
        answers: list[dict[str, Any]] = [
            {"score": score, "start": start, "end": end, "answer": text[start:end]}
            for (start, end), score in best.items()
        ]
        if parameters.handle_impossible_answer:
            answers.append({"score": null_score, "start": 0, "end": 0, "answer": ""})
        answers.sort(key=lambda answer: answer["score"], reverse=True)
        return answers[0] if parameters.top_k == 1 else answers[: parameters.top_k]

    def _choose_window(self, fixed: int, question: int, parameters: QuestionAnsweringParameters) -> tuple[int, int]:
        """Return the context tokens per window, and how many of them the next window repeats.

        Args:
            fixed: tokens of a window that do not belong to the context.
            question: tokens of the question, for the message.

        Raises:
            InvalidRequest: a window has no room for context, or the stride is too large.
        """
        limits = [parameters.max_seq_len or 384, self.pretrained.max_length]
        window = min(limit for limit in limits if limit is not None)
        capacity = window - fixed
        if capacity < 1:
            raise InvalidRequest(
                f"has {question} tokens and a window {window}, which leaves none for the context: "
                "shorten it, or set parameters.max_question_len or a larger parameters.max_seq_len",
                field="question",
            )
        if parameters.doc_stride is None:
            default = min(window // 2, 128)
            return capacity, default if default < capacity else capacity // 2
        if parameters.doc_stride >= capacity:
            raise InvalidRequest(
                f"must be less than {capacity}, the tokens of context in a window of {window}",
                field="parameters.doc_stride",
            )
        return capacity, parameters.doc_stride


def _parse(instance: Any) -> Question:
    if not isinstance(instance, dict):
        raise InvalidRequest("must be an object with question and context")
    try:
        return Question.model_validate(instance)
    except ValidationError as error:
        raise make_invalid_request(error) from None


def _answer_bounds(encoded: Any, context: list[int], whole_words: bool) -> _Indices:
    """Return the start and end of each context token as character indices (tokens, 2).

    With `whole_words`, these are the bounds of the token's word. They come from the whole text, so that a word is
    complete even if a window cuts it.
    """
    offsets = [encoded["offset_mapping"][p] for p in context]
    if whole_words:
        word_ids = encoded.word_ids()
        # A token that belongs to no word is a word of its own.
        words = [-p if word_ids[p] is None else word_ids[p] for p in context]
        spans: dict[int, tuple[int, int]] = {}
        for word, (start, end) in zip(words, offsets, strict=True):
            spans[word] = spans.get(word, (start, end))[0], end
        offsets = [spans[word] for word in words]
    return np.array(offsets, dtype=np.int64)


def _span_scores(logits: _Floats, window: _ContextWindow, max_answer_len: int) -> tuple[_Floats, float]:
    """Compute the scores of all spans of a window, and of "no answer".

    Args:
        logits: start and end logits (2, tokens of the row).

    Returns:
        Scores [i, j] of the spans that start at context token i and have j + 1 tokens: the product of the start and
        end probabilities, or -1 if the span ends outside the window. Then the score of "no answer".
    """
    size = len(window.starts)
    allowed = list(range(window.first, window.first + size))
    if window.null is not None:
        allowed.append(window.null)
    weights = np.exp(logits[:, allowed] - logits[:, allowed].max(axis=1, keepdims=True))
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    null = float(probabilities[0, size] * probabilities[1, size]) if window.null is not None else 0.0
    start, end = probabilities[:, :size]
    width = min(max_answer_len, size)
    # Only the band of the (tokens, tokens) matrix that contains answers is computed.
    scores = start[:, np.newaxis] * sliding_window_view(np.pad(end, (0, width - 1)), width)
    beyond = np.arange(size)[:, np.newaxis] + np.arange(width) >= size
    return np.where(beyond, np.float32(-1), scores), null


def _best_spans(scores: _Floats, count: int) -> list[tuple[int, int, float]]:
    """Return the first and last token of the best spans with their scores, best first."""
    flat = scores.ravel()
    count = min(count, int((flat >= 0).sum()))
    best = np.argpartition(-flat, count - 1)[:count]
    best = best[np.argsort(-flat[best], kind="stable")]
    first, extra = np.divmod(best, scores.shape[1])
    return list(zip(first.tolist(), (first + extra).tolist(), flat[best].tolist(), strict=True))


#: Runner of this task.
RUNNER = QuestionAnsweringRunner
