"""Batches that start together, through `model.generate`: for models that read a source, and any that do not step.

`generate` knows how each architecture keeps its state; which token comes next, and when a sequence ends, is decided
here for each sequence by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from hf_runtime.contract.request_context import request_context
from runners.engines.batch.batch_invariance import BatchSharing, find_batch_sharing
from runners.engines.batch.bisect import error_for_item, retry_in_halves
from runners.engines.generate.decoder import Decoder
from runners.engines.generate.model import GenerationModel
from runners.engines.generate.request import GenerationRequest
from runners.engines.generate.sampling import Sampler
from runners.engines.generate.sequence import SequenceState
from runners.engines.rows import BatchLimits, Row, select_batch

logger = logging.getLogger(__name__)


#: The prompt that a model is tried with, and tokens that are added to it for its company.
_PROMPT, _LONGER = 4, (3, 9)

#: Tokens that are generated then: a state that is wrong shows after the first.
_STEPS = 3


class StaticDecoder(Decoder):
    """Writes a batch to its end before it starts the next one."""

    def __init__(self, model: GenerationModel, limits: BatchLimits) -> None:
        super().__init__(limits)
        self._model = model
        self._sampler = Sampler(model)
        self._waiting: list[SequenceState] = []
        self._running = 0
        self._sharing = self._find_batch_sharing()

    def _find_batch_sharing(self) -> BatchSharing:
        model = self._model
        room = None if model.context is None else max(model.context - _STEPS, 1)
        length = _PROMPT if room is None else min(_PROMPT, room)
        ids = [(5 + 4 * i) % model.tokens for i in range(length)]
        return find_batch_sharing(
            lambda rows: [self._logits([row.inputs["input_ids"] for row in rows])],
            Row({"input_ids": ids}, length),
            special=model.special_ids,
            longest=room,
            exact=model.model.dtype == torch.float32,
            can_pad=model.can_pad,
            longer=_LONGER,
        )

    @torch.inference_mode()
    def _logits(self, prompts: Sequence[list[int]]) -> torch.Tensor:
        """Logits of the first new tokens of each prompt, shape (prompts, tokens, vocabulary)."""
        options: dict[str, Any] = {"num_beams": 1, "do_sample": False, "return_dict_in_generate": True}
        written = self._model.model.generate(
            **self._padded(prompts),
            generation_config=_config(max_new_tokens=_STEPS, output_logits=True, **options),
            logits_processor=LogitsProcessorList([_Forced(self._model)]),
        )
        logits = torch.stack(written.logits, 1).float()
        return logits.where(logits.isfinite(), 0)

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    @property
    def running(self) -> int:
        return self._running

    def add(self, sequence: SequenceState) -> None:
        self._waiting.append(sequence)

    def abandon(self) -> list[SequenceState]:
        abandoned, self._waiting = self._waiting, []
        return [sequence for sequence in abandoned if not sequence.finished]

    def step(self) -> None:
        self._waiting = [sequence for sequence in self._waiting if not sequence.finished]
        if not self._waiting:
            return
        # Beam search answers one request with several sequences; they wait one behind the other.
        groups: dict[int, list[SequenceState]] = {}
        for sequence in self._waiting:
            groups.setdefault(id(sequence.request), []).append(sequence)
        waiting = list(groups.values())
        picked = select_batch([self._row(group) for group in waiting], self.limits)
        for part in self._within_context([waiting[i] for i in picked]):
            self._write_or_blame(part)
        self._waiting = [sequence for sequence in self._waiting if not sequence.finished]

    def _row(self, group: list[SequenceState]) -> Row[None]:
        request = group[0].request
        cost = (len(request.input_ids) + request.max_new_tokens) * max(len(group), self._model.beams)
        return Row(None, cost, self._key(request, len(group)))

    def _key(self, request: GenerationRequest, count: int) -> Hashable:
        """Requests of equal keys can share a call, and each gets the answer it would get alone."""
        if self._sharing is BatchSharing.NONE:
            return object()  # equal to no other
        length = None if self._sharing is BatchSharing.ANY else len(request.input_ids)
        limit = self._model.rope_limit
        if limit is not None and len(request.input_ids) + request.max_new_tokens > limit:
            return object()  # equal to no other
        if self._model.beams == 1:
            return length
        if request.sampling is not None:
            return object()  # equal to no other: random numbers of a beam search depend on all its rows
        end = request.max_new_tokens if self._model.foresees_end else None
        penalty, first = request.repetition_penalty, request.forced_bos_token_id
        return length, count, end, request.min_new_tokens, penalty, first

    def _within_context(self, groups: list[list[SequenceState]]) -> Iterator[list[list[SequenceState]]]:
        """Those that can go together: a row that has ended runs on with its batch, and must not leave the context."""
        limit = None if self._model.seq2seq else self._model.context
        part: list[list[SequenceState]] = []
        for group in sorted(groups, key=lambda group: len(group[0].request.input_ids)):
            steps = max(other[0].request.max_new_tokens for other in [*part, group])
            if part and limit is not None and len(group[0].request.input_ids) + steps > limit:
                yield part
                part = []
            part.append(group)
        yield part

    def _write_or_blame(self, groups: Sequence[list[SequenceState]]) -> None:
        self._running = sum(map(len, groups))
        with request_context(*(group[0].request_context for group in groups)):
            try:
                self._write(groups)
                return
            except Exception as error:
                failed = error
            finally:
                self._running = 0
            # Outside of the handler, which would keep what the failed batch holds.
            if len(groups) > 1:
                retry_in_halves(groups, "sequences", self._write_unfinished, failed)
                return
            refusal = error_for_item(failed)
            for sequence in groups[0]:
                sequence.fail(refusal)
            self.on_tokens(groups[0])

    def _write_unfinished(self, groups: Sequence[list[SequenceState]]) -> None:
        """Those that the failed batch has finished stay as they are, the others go on where they were."""
        if left := [group for group in groups if not all(sequence.finished for sequence in group)]:
            self._write_or_blame(left)

    @torch.inference_mode()
    def _write(self, groups: Sequence[list[SequenceState]]) -> None:
        sequences = [sequence for group in groups for sequence in group]
        for sequence in sequences:
            sequence.start()
            self.on_start(sequence)
        lengths = [len(sequence.request.input_ids) for sequence in sequences]
        self.on_batch(len(lengths), sum(lengths), max(lengths) * len(lengths) - sum(lengths))
        logger.debug("a batch of %d sequences starts; %d are there", len(sequences), len(self._waiting))
        if self._model.beams > 1:
            self._search(groups, self._padded([group[0].request.input_ids for group in groups]))
            return
        inputs = self._inputs(sequences)
        longest = max(s.request.max_new_tokens - len(s.tokens) for s in sequences)
        choice = _Choice(self, sequences)
        self._model.model.generate(
            **inputs,
            generation_config=_config(max_new_tokens=longest, do_sample=False),
            logits_processor=LogitsProcessorList([choice]),
            stopping_criteria=StoppingCriteriaList([_Ends(sequences)]),
        )

    def _inputs(self, sequences: list[SequenceState]) -> dict[str, torch.Tensor]:
        """Prompts, and what a sequence has already if the batch that it was in has failed and it is alone now."""
        if not self._model.seq2seq:
            return self._padded([sequence.request.input_ids + sequence.tokens for sequence in sequences])
        inputs = self._padded([sequence.request.input_ids for sequence in sequences])
        if sequences[0].tokens:
            start = self._model.start(sequences[0].request)
            inputs["decoder_input_ids"] = torch.tensor([start + sequences[0].tokens], device=self._model.device)
        return inputs

    def _search(self, groups: Sequence[list[SequenceState]], inputs: dict[str, torch.Tensor]) -> None:
        """Beam search: the whole text is known only at its end."""
        request, count = groups[0][0].request, len(groups[0])
        sequences = [sequence for group in groups for sequence in group]
        start = 1 if self._model.seq2seq else inputs["input_ids"].shape[1]
        options: dict[str, Any] = {
            "do_sample": request.sampling is not None,
            "num_beams": self._model.beams,
            "num_return_sequences": count,
            "max_new_tokens": max(group[0].request.max_new_tokens for group in groups),
            "min_new_tokens": request.min_new_tokens or None,
            "repetition_penalty": request.repetition_penalty,
            "forced_bos_token_id": request.forced_bos_token_id,
        }
        if (sampling := request.sampling) is not None:
            options |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        with _random_numbers(sampling.seed if sampling else None, self._model.device):
            output = self._model.model.generate(
                **inputs,
                generation_config=_config(**options),
                stopping_criteria=StoppingCriteriaList([_Unwanted(sequences)]),
            )
        rows = output[:, start:].tolist()
        for sequence, tokens in zip(sequences, rows, strict=True):
            with sequence.guarded():
                for token in tokens:
                    if not sequence.finished:
                        sequence.accept(token)
                if not sequence.finished:  # padding took the place of the end
                    sequence.finish("stop")
        self.on_tokens(sequences)

    def choose(self, sequences: list[SequenceState], logits: torch.Tensor) -> None:
        """Give the unfinished of a batch's sequences their next tokens, and tell of them."""
        writing = [i for i, sequence in enumerate(sequences) if not sequence.finished]
        if writing:
            told = [sequences[i] for i in writing]
            self._sampler.step(told, logits[writing])
            self.on_numbers(self._sampler.only_nan)
            self.on_tokens(told)

    @property
    def pad(self) -> int:
        """What stands in the place of tokens after the end."""
        return self._model.pad

    def _padded(self, prompts: Sequence[list[int]]) -> dict[str, torch.Tensor]:
        """Sequence padded to the longest: on the left if the answer follows the prompt, else on the right."""
        shape = len(prompts), max(len(prompt) for prompt in prompts)
        ids = torch.full(shape, self._model.pad)
        mask = torch.zeros(shape, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            place = slice(0, len(prompt)) if self._model.seq2seq else slice(shape[1] - len(prompt), None)
            ids[i, place] = torch.tensor(prompt)
            mask[i, place] = 1
        inputs = {"input_ids": ids.to(self._model.device)}
        if self._model.reads_mask:
            inputs["attention_mask"] = mask.to(self._model.device)
        return inputs


class _Choice(LogitsProcessor):
    """Leaves `generate` no choice: the likeliest token is the one that was chosen here."""

    def __init__(self, decoder: StaticDecoder, sequences: list[SequenceState]) -> None:
        self._decoder = decoder
        self._sequences = sequences

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._decoder.choose(self._sequences, scores)
        tokens = [s.tokens[-1] if s.tokens and not s.error else self._decoder.pad for s in self._sequences]
        return _only(tokens, scores)


class _Forced(LogitsProcessor):
    """Has `generate` write the same token always, so that rounding leads no row astray."""

    def __init__(self, model: GenerationModel) -> None:
        self._token = next((token for token in range(model.vocabulary) if token not in model.eos), 0)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return _only([self._token] * len(scores), scores)


class _Ends(StoppingCriteria):
    """Ends each row when its sequence has ended."""

    def __init__(self, sequences: list[SequenceState]) -> None:
        self._sequences = sequences

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.tensor([sequence.finished for sequence in self._sequences], device=input_ids.device)


class _Unwanted(StoppingCriteria):
    """End a beam search once all its clients have left; until then all of its rows go on, as they share beams."""

    def __init__(self, sequences: list[SequenceState]) -> None:
        self._sequences = sequences

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        unwanted = all(sequence.cancelled for sequence in self._sequences)
        return torch.full((len(input_ids),), unwanted, device=input_ids.device)


def _only(tokens: Sequence[int], scores: torch.Tensor) -> torch.Tensor:
    """Scores that leave each row one token."""
    chosen = torch.full_like(scores, -torch.inf)
    chosen[torch.arange(len(tokens)), tokens] = 0
    return chosen


def _config(**options: Any) -> GenerationConfig:
    """In transformers' words, where what is absent is the model's own."""
    config: Any = GenerationConfig
    made: GenerationConfig = config(**{name: value for name, value in options.items() if value is not None})
    return made


@contextmanager
def _random_numbers(seed: int | None, device: torch.device) -> Iterator[None]:
    """Seed torch for the time of a call, as `set_seed` would for good."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
