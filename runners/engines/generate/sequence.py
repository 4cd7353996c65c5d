"""One sequence on its way: what it has so far, when it ends, and what of it nobody has been told."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from hf_runtime.contract.errors import InferenceFailed, ServingError
from hf_runtime.contract.request_context import RequestContext, request_context
from runners.engines.device_errors import raise_if_broken
from runners.engines.generate.model import GenerationModel
from runners.engines.generate.request import FinishReason, GenerationRequest, SequenceOutput, TokenLogprob
from runners.engines.generate.text import TextStream

logger = logging.getLogger(__name__)


class SequenceState:
    """A sequence while it is written.

    Attributes:
        tokens: new tokens so far.
        cancelled: set from another thread when nobody waits any more; the sequence is then dropped at the next step.
        rules: what changes its logits before a token is chosen.
        matcher: what keeps it to its grammar.
        finish_reason: None while it is written.
        error: what befell it alone.
        cached_tokens: tokens of the prompt that another prompt had brought along.
        request_context: the HTTP request.
        started: when its first step began, by `monotonic`; None while it waits.

    Args:
        in_pieces: somebody takes its text while it is written.
    """

    def __init__(
        self,
        request: GenerationRequest,
        model: GenerationModel,
        request_context: RequestContext | None = None,
        *,
        in_pieces: bool = False,
    ) -> None:
        self.request = request
        self.request_context = request_context
        self.started: float | None = None
        self.tokens: list[int] = []
        self.cancelled = False
        self.finish_reason: FinishReason | None = None
        self.error: ServingError | None = None
        self.cached_tokens = 0
        self.logprobs: list[TokenLogprob] = []
        self.matcher = request.grammar.matcher() if request.grammar is not None else None
        self.rules = model.rules(request)
        self._number: float | None = None
        self._random = random.Random(request.sampling.seed) if request.sampling is not None else None  # noqa: S311
        self._eos = frozenset() if request.ignore_eos else model.eos
        self._text = TextStream(model.tokenizer, request.input_ids if request.continues else (), request.stop)
        #: A token's text costs as much as some hundred of them do at once.
        self._follows_text = in_pieces or bool(request.stop)
        self._unsaid = ""
        self._unsaid_logprobs = 0

    @property
    def finished(self) -> bool:
        """Whether it takes no more tokens."""
        return self.finish_reason is not None or self.error is not None or self.cancelled

    def start(self) -> None:
        """Note that its first step begins; again, after it had to wait, without effect."""
        if self.started is None:
            self.started = monotonic()

    def accept(self, token: int, logprob: TokenLogprob | None = None) -> None:
        """Take the next token."""
        self.tokens.append(token)
        self._number = None
        if logprob is not None:
            self.logprobs.append(logprob)
        if token in self._eos:
            self.finish("stop")
            return
        if self.matcher is not None:
            self.matcher.accept(token)
        if self._follows_text:
            self._unsaid += self._text.feed(token)
        else:
            self._text.hold(token)
        if self._text.stopped or token in self.request.stop_ids or (self.matcher is not None and self.matcher.finished):
            self.finish("stop")
        elif len(self.tokens) >= self.request.max_new_tokens:
            self.finish("length")

    def random_number(self) -> float:
        """That of the next token, in [0, 1), however often it is asked for; 0 where none is needed."""
        if self._number is None:
            self._number = self._random.random() if self._random is not None else 0.0
        return self._number

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """End this sequence alone by what goes wrong inside.

        Raises:
            BrokenDevice: it is the end of all.
        """
        try:
            yield
        except ServingError as error:
            self.fail(error)
        except Exception as error:
            raise_if_broken(error)
            with request_context(self.request_context):
                logger.exception("writing a sequence failed")
            self.fail(InferenceFailed("the server failed on this instance; its log has the details"))

    def fail(self, error: ServingError) -> None:
        """End it, unfinished."""
        self.error = error

    def take_delta(self) -> tuple[str, list[TokenLogprob]] | None:
        """Text and log probabilities since the last time; None if there is no text yet and more to come."""
        if not self._unsaid and self.finish_reason is None:
            return None
        text, self._unsaid = self._unsaid, ""
        logprobs = self.logprobs[self._unsaid_logprobs :]
        self._unsaid_logprobs = len(self.logprobs)
        return text, logprobs

    @property
    def written(self) -> SequenceOutput:
        """The whole of a finished sequence."""
        assert self.finish_reason is not None, "this is a bug: an unfinished sequence has no result"
        return SequenceOutput(
            self.tokens,
            self._text.text,
            self.finish_reason,
            self.logprobs if self.request.logprobs is not None else None,
            self._text.stopped_by or self.request.stop_ids.get(self.tokens[-1]),
            self.cached_tokens,
        )

    def finish(self, reason: FinishReason) -> None:
        """End it, complete."""
        if not self._text.stopped:
            self._unsaid += self._text.end()
            if self._text.stopped:  # the last characters were what it waited for
                reason = "stop"
        self.finish_reason = reason
