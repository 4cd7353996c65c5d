"""State of one sequence: its tokens, its end, and its text that is not reported yet."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from time import monotonic

from hf_runtime.contract.errors import InferenceFailed, ServingError
from hf_runtime.contract.request_context import RequestContext, request_context
from runners.engines.device_errors import raise_if_broken
from runners.engines.generate.model import GenerationModel
from runners.engines.generate.text import TextStream
from runners.engines.generation_request import (
    FinishReason,
    GenerationRequest,
    PromptTokenLogprob,
    SequenceOutput,
    TokenLogprob,
)

logger = logging.getLogger(__name__)


class SequenceState:
    """State of one sequence during generation.

    Attributes:
        tokens: new tokens so far.
        cancelled: set from another thread when the client has left; the decoder then drops the sequence.
        rules: logits processors applied before a token is sampled.
        matcher: state of its grammar; None without one.
        finish_reason: None until it is complete.
        error: error that ended this sequence; None without one.
        cached_tokens: tokens of the prompt that were copied from another sequence instead of computed.
        prompt_logprobs: those of the prompt's first tokens that are computed so far.
        request_context: the HTTP request that it belongs to.
        started: time of its first step by `monotonic`; None while it waits.

    Args:
        streamed: its text is taken by `take_delta` during generation.
    """

    def __init__(
        self,
        request: GenerationRequest,
        model: GenerationModel,
        request_context: RequestContext | None = None,
        *,
        streamed: bool = False,
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
        self.prompt_logprobs: list[PromptTokenLogprob] = []
        self.matcher = request.grammar.matcher(request.end_ids) if request.grammar is not None else None
        self.rules = model.make_rules(request)
        self._number: float | None = None
        self._random = random.Random(request.sampling.seed) if request.sampling is not None else None  # noqa: S311
        own_ends = frozenset() if request.ignore_eos else model.eos | request.end_ids
        self._eos = own_ends | request.stop_token_ids
        self._text = TextStream(
            model.tokenizer,
            request.input_ids if request.continues else (),
            request.stop,
            _choose_hidden_tokens(request, model),
            includes_stop=request.includes_stop,
        )
        #: Whether text is decoded per token. Decoding one token costs as much as decoding a hundred together.
        self.streamed = streamed
        self._decodes_text = streamed or bool(request.stop)
        self._delta = ""
        self._reported_logprobs = 0

    @property
    def finished(self) -> bool:
        """True once the sequence accepts no more tokens."""
        return self.finish_reason is not None or self.error is not None or self.cancelled

    @property
    def needs_prompt_logprobs(self) -> bool:
        """True while log probabilities of the prompt are asked for and not complete."""
        return self.request.prompt_logprobs is not None and len(self.prompt_logprobs) < len(self.request.input_ids)

    @property
    def needs_token(self) -> bool:
        """True if a token follows; false for a request that asks for none."""
        return len(self.tokens) < self.request.max_new_tokens

    def start(self) -> None:
        """Record the time of its first step; later calls, after preemption, have no effect."""
        if self.started is None:
            self.started = monotonic()

    def accept(self, token: int, logprob: TokenLogprob | None = None) -> None:
        """Add the next token, and finish the sequence if the token ends it."""
        self.tokens.append(token)
        self._number = None
        if logprob is not None:
            self.logprobs.append(logprob)
        if token in self._eos:
            if self.request.includes_stop:
                self._text.append(token)
            self.finish("stop")
            return
        if self.matcher is not None:
            self.matcher.accept(token)
        if self._decodes_text:
            self._delta += self._text.feed(token)
        else:
            self._text.append(token)
        if self.request.includes_stop and token in self.request.stop_ids and not self._text.stopped:
            self._delta += self._text.end_with(self.request.stop_ids[token])
        if self._text.stopped or token in self.request.stop_ids or (self.matcher is not None and self.matcher.finished):
            self.finish("stop")
        elif len(self.tokens) >= self.request.max_new_tokens:
            self.finish("length")

    def finish_without_token(self) -> None:
        """Finish the sequence if its request asks for no token."""
        if not self.finished and not self.needs_token:
            self.finish("length")

    def random_number(self) -> float:
        """Return the random number in [0, 1) of the next token; the same until a token is accepted.

        It is 0 without sampling.
        """
        if self._number is None:
            self._number = self._random.random() if self._random is not None else 0.0
        return self._number

    @contextmanager
    def catch_errors(self) -> Iterator[None]:
        """End only this sequence if an error is raised within the context.

        Raises:
            BrokenDevice: the device failed, which ends all sequences.
        """
        try:
            yield
        except ServingError as error:
            self.fail(error)
        except Exception as error:
            raise_if_broken(error)
            with request_context(self.request_context):
                logger.exception("Generating a sequence failed")
            self.fail(InferenceFailed("the server failed on this instance; its log has the details"))

    def fail(self, error: ServingError) -> None:
        """End the sequence with an error."""
        self.error = error

    def take_delta(self) -> tuple[str, list[TokenLogprob]] | None:
        """Return the text and log probabilities since the last call; None without new text.

        The last delta of a finished sequence is returned even if its text is empty.
        """
        if not self._delta and self.finish_reason is None:
            return None
        text, self._delta = self._delta, ""
        logprobs = self.logprobs[self._reported_logprobs :]
        self._reported_logprobs = len(self.logprobs)
        return text, logprobs

    @property
    def output(self) -> SequenceOutput:
        """The result of a finished sequence."""
        assert self.finish_reason is not None, "this is a bug: an unfinished sequence has no result"
        return SequenceOutput(
            self.tokens,
            self._text.text,
            self.finish_reason,
            self.logprobs if self.request.logprobs is not None else None,
            self._text.stopped_by or (self.request.stop_ids.get(self.tokens[-1]) if self.tokens else None),
            self.cached_tokens,
            self.prompt_logprobs if self.request.prompt_logprobs is not None else None,
        )

    def finish(self, reason: FinishReason) -> None:
        """End the sequence as complete."""
        if not self._text.stopped:
            self._delta += self._text.end()
            if self._text.stopped:  # the held back text completed a stop string
                reason = "stop"
        self.finish_reason = reason


def _choose_hidden_tokens(request: GenerationRequest, model: GenerationModel) -> Collection[int] | None:
    """Return the tokens without text; None for all special tokens."""
    if not request.skips_special_tokens:
        return ()
    return model.skipped_ids - request.visible_ids if request.visible_ids else None
