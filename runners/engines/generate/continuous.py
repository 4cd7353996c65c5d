"""Continuous batching: sequences join and leave the batch at any token.

A step is one forward pass over the next token of each running sequence and over chunks of prompts (chunked prefill).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

import torch

from hf_runtime.contract.errors import InferenceFailed
from hf_runtime.contract.request_context import request_context
from runners.engines.batch.retry import error_for_item, retry_in_halves
from runners.engines.generate.cache import CacheSlot, KVCache
from runners.engines.generate.decoder import Decoder
from runners.engines.generate.incremental_model import IncrementalModel
from runners.engines.generate.model import GenerationModel
from runners.engines.generate.prefix_cache import PrefixCache, common_prefix_length, find_longest_prefix
from runners.engines.generate.sampling import Sampler
from runners.engines.generate.sequence import SequenceState
from runners.engines.rows import BatchLimits

logger = logging.getLogger(__name__)

#: Free tokens, in addition to its own, that a sequence needs in memory to start.
_HEADROOM = 64

#: The most sequences that may overtake the first in the queue while there is no memory for it.
_MAX_OVERTAKING = 64

#: Logits of prompts that a step computes for their log probabilities, counted as numbers: 128 MiB in float32.
_PROMPT_LOGITS = 1 << 25

#: The most waiting sequences tried per step: a long queue must not be searched for every token.
_MAX_ATTEMPTS = 8


class _Running:
    """Running sequence with its slot in the KV cache.

    Attributes:
        ids: all of its tokens; those before `slot.length` are cached.
    """

    __slots__ = ("ids", "sequence", "slot")

    def __init__(self, sequence: SequenceState, ids: list[int], slot: CacheSlot) -> None:
        self.sequence = sequence
        self.ids = ids
        self.slot = slot

    @property
    def pending(self) -> int:
        """Number of tokens that are not computed yet: one during decode, more during prefill."""
        return len(self.ids) - self.slot.length


class ContinuousDecoder(Decoder):
    """Decoder with continuous batching, for models that can be decoded incrementally."""

    def __init__(
        self, model: GenerationModel, incremental: IncrementalModel, cache: KVCache, limits: BatchLimits
    ) -> None:
        super().__init__(limits)
        self._incremental_model = incremental
        self._cache = cache
        self._prefixes = PrefixCache(cache)
        self._sampler = Sampler(model)
        self._prompt_rows = max(_PROMPT_LOGITS // model.vocabulary, 1)
        self._waiting: deque[SequenceState] = deque()
        self._running: list[_Running] = []  # in order of their start
        self._overtaken = 0

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def cache_usage(self) -> float:
        return self._cache.tokens / self._cache.budget

    @property
    def memory(self) -> int:
        return self._cache.max_length

    def add(self, sequence: SequenceState) -> None:
        self._waiting.append(sequence)

    def step(self) -> None:
        self._remove_finished()
        self._admit_waiting()
        self._ensure_capacity()
        scheduled = self._schedule_tokens()
        if scheduled:
            self.on_batch(len(scheduled), sum(count for _, count in scheduled), 0)
            self._compute_or_fail(scheduled)

    def abandon(self) -> list[SequenceState]:
        abandoned = [*(running.sequence for running in self._running), *self._waiting]
        self._running, self._waiting = [], deque()
        self._prefixes.clear()
        self._cache.clear()
        return [sequence for sequence in abandoned if not sequence.finished]

    # Scheduling

    def _remove_finished(self) -> None:
        # `finished` is read once per sequence: another thread may change it when a client disconnects.
        leaving = [running for running in self._running if running.sequence.finished]
        for running in leaving:
            self._running.remove(running)
            self._log_end(running.sequence)
            if running.sequence.error is None:
                self._prefixes.store(running.ids, running.slot)
            self._cache.free(running.slot)
        self._waiting = deque(sequence for sequence in self._waiting if not sequence.finished)

    def _admit_waiting(self) -> None:
        """Start waiting sequences, in order, as far as rows and memory allow.

        Smaller sequences may overtake one that does not fit yet, up to `_MAX_OVERTAKING` of them.
        """
        skipped = 0
        while skipped < min(len(self._waiting), _MAX_ATTEMPTS) and len(self._running) < self.limits.max_rows:
            running = self._start_sequence(self._waiting[skipped])
            if running is not None:
                del self._waiting[skipped]
                self._running.append(running)
                self._report_start(running)
                self._overtaken = self._overtaken + 1 if skipped else 0
                continue
            skipped += 1
            if self._overtaken >= _MAX_OVERTAKING:
                break
        if self._waiting and not self._running:
            # No running sequence will free memory: the system itself has none left.
            failed = self._waiting.popleft()
            failed.fail(InferenceFailed("there is not enough memory for this sequence"))
            self.on_tokens([failed])

    def _report_start(self, running: _Running) -> None:
        running.sequence.start()
        self.on_start(running.sequence)
        if logger.isEnabledFor(logging.DEBUG):
            with request_context(running.sequence.request_context):
                logger.debug(
                    "a sequence joins: %d tokens, %d of them cached; %d running, %d waiting",
                    len(running.ids), running.slot.length, len(self._running), len(self._waiting),
                )  # fmt: skip

    def _log_end(self, sequence: SequenceState) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            with request_context(sequence.request_context):
                reason = sequence.finish_reason or ("error" if sequence.error is not None else "cancelled")
                logger.debug(
                    "a sequence leaves: %d new tokens, %s; %d running, %d waiting",
                    len(sequence.tokens), reason, len(self._running), len(self._waiting),
                )  # fmt: skip

    def _start_sequence(self, sequence: SequenceState) -> _Running | None:
        ids = sequence.request.input_ids + sequence.tokens
        known = None
        if not sequence.needs_prompt_logprobs:  # which must be computed, and are not cached
            candidates = [(running.ids, running.slot) for running in self._running]
            known = find_longest_prefix(ids, candidates)
            covered = known[1] if known is not None else 0
            if any(max(covered, slot.length) < common_prefix_length(ids[:-1], other) for other, slot in candidates):
                return None  # a running sequence is computing its prefix; wait for that
            stored = self._prefixes.find(ids)
            if stored is not None and stored[1] > covered:
                known = stored
        left = sequence.request.max_new_tokens - len(sequence.tokens)
        slot = self._allocate(len(ids) + min(left, _HEADROOM))
        if slot is None:
            return None
        if known is not None and known[0].slab.slots:  # the allocation may have evicted the prefix
            slot.slab.copy(slot.index, known[0], known[1])
            slot.length = known[1]
            sequence.cached_tokens = max(sequence.cached_tokens, min(known[1], len(sequence.request.input_ids)))
        return _Running(sequence, ids, slot)

    def _allocate(self, tokens: int) -> CacheSlot | None:
        while (slot := self._cache.allocate(tokens)) is None:
            if not self._prefixes.evict_oldest():
                return None
        return slot

    def _ensure_capacity(self) -> None:
        """Give each sequence memory for its next token.

        If there is none, the youngest sequence is preempted: it waits and is computed again later.
        """
        for running in list(self._running):
            while running in self._running and len(running.ids) > running.slot.capacity:
                if not (self._cache.grow(running.slot, len(running.ids)) or self._prefixes.evict_oldest()):
                    youngest = self._running.pop()
                    self._cache.free(youngest.slot)
                    self._waiting.appendleft(youngest.sequence)
                    logger.debug("KV cache full: one of %d sequences is preempted and waits", len(self._running) + 1)

    # Computation

    def _schedule_tokens(self) -> list[tuple[_Running, int]]:
        """Return the sequences of this step, each with the number of its tokens to compute.

        Sequences in decode always get one token. Half of the remaining tokens go to the oldest prompt and half to the
        shortest ones first, so that neither a long prompt nor many short ones block the others.
        """
        scheduled = [(running, 1) for running in self._running if running.pending == 1]
        prefill = [running for running in self._running if running.pending > 1]
        budget = max(self.limits.max_tokens - len(scheduled), 1)
        if prefill:
            shares, most = dict.fromkeys(prefill, 0), self._limit_prompt_logits(prefill)
            shares[prefill[0]] = min(most[prefill[0]], (budget + 1) // 2)
            budget -= shares[prefill[0]]
            for running in sorted(prefill, key=lambda running: running.pending):
                more = min(most[running] - shares[running], budget)
                shares[running] += more
                budget -= more
            scheduled += [(running, share) for running, share in shares.items() if share]
        return scheduled

    def _limit_prompt_logits(self, prefill: Sequence[_Running]) -> dict[_Running, int]:
        """Return the most tokens of each prompt in a step.

        Only prompts whose log probabilities are asked for are limited.
        """
        most, rows = {}, self._prompt_rows
        for running in prefill:
            most[running] = running.pending
            if running.sequence.needs_prompt_logprobs:
                most[running] = min(running.pending, rows)
                rows -= most[running]
        return most

    def _compute_or_fail(self, scheduled: Sequence[tuple[_Running, int]]) -> None:
        with request_context(*(running.sequence.request_context for running, _ in scheduled)):
            failed = None
            try:
                updated = self._compute(scheduled)
            except Exception as error:
                failed = error
            if failed is None:
                self.on_tokens(updated)
                return
            # Outside of the exception handler, which would keep the memory of the failed step.
            if len(scheduled) > 1:
                retry_in_halves(scheduled, "sequences", self._compute_or_fail, failed)
                return
            sequence = scheduled[0][0].sequence
            sequence.fail(error_for_item(failed))
            self.on_tokens([sequence])

    @torch.inference_mode()
    def _compute(self, scheduled: Sequence[tuple[_Running, int]]) -> list[SequenceState]:
        """Compute one step, and return the sequences that got a token."""
        # Single tokens are computed by slab, whether they end a prompt or continue an answer.
        slabs = {id(slab): number for number, slab in enumerate(self._cache.slabs)}
        single = [running for running, count in scheduled if count == 1]
        single.sort(key=lambda running: (slabs[id(running.slot.slab)], running.slot.index))
        longer = [(running, count) for running, count in scheduled if count > 1]
        step = self._incremental_model.new_step(
            [(running.slot, running.ids[running.slot.length]) for running in single],
            [
                (running.slot, running.ids[running.slot.length : running.slot.length + count])
                for running, count in longer
            ],
        )
        ordered = [(running, 1) for running in single] + longer
        complete = [i for i, (running, count) in enumerate(ordered) if count == running.pending]
        decoded = [i for i in complete if ordered[i][0].sequence.needs_token]
        scored = [i for i, (running, _) in enumerate(ordered) if running.sequence.needs_prompt_logprobs]
        wanted = step.ends[decoded]
        prompts = [_find_prompt_rows(*ordered[i], int(step.ends[i])) for i in scored]
        if prompts:
            wanted = torch.cat([wanted, *(wanted.new_tensor(rows) for _, rows in prompts)])
        logits = self._incremental_model.forward(step, wanted)
        row = len(decoded)
        for i, (first, rows) in zip(scored, prompts, strict=True):
            self._sampler.record_prompt(ordered[i][0].sequence, first, logits[row : row + len(rows)])
            row += len(rows)
        if decoded:
            self._sampler.sample_next([ordered[i][0].sequence for i in decoded], logits[: len(decoded)])
            self.on_nan_check(self._sampler.only_nan)
        for running, count in ordered:
            running.slot.length += count
        for running in (ordered[i][0] for i in decoded):
            running.ids.extend(running.sequence.tokens[-1:] if not running.sequence.error else [])
        if len(decoded) < len(complete):
            for sequence in (ordered[i][0].sequence for i in complete):
                sequence.finish_without_token()
        failed = [i for i in scored if i not in complete and ordered[i][0].sequence.error]
        return [ordered[i][0].sequence for i in complete + failed]


def _find_prompt_rows(running: _Running, count: int, end: int) -> tuple[int, range]:
    """Find the tokens of a chunk whose logits are needed to score the prompt.

    Args:
        count: tokens of the chunk.
        end: index of its last token in the step.

    Returns:
        The index of the first one in the prompt, and their indices in the step.
    """
    sequence, start = running.sequence, running.slot.length
    first = max(start, len(sequence.prompt_logprobs) - 1)
    last = min(start + count, len(sequence.request.input_ids) - 1)
    begin = end + 1 - count + first - start
    return first, range(begin, begin + max(last - first, 0))
