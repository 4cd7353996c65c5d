"""Fill-mask: the most likely tokens for each mask token of a text."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForMaskedLM

from hf_runtime.contract.errors import InvalidRequest, LoadError
from hf_runtime.contract.tasks.fill_mask import SPEC, FillMaskParameters
from runners.engines.rows import Row
from runners.engines.runner import Job
from runners.models.padded_model import Encoding
from runners.tasks.encoder import EncoderRunner
from runners.tasks.tokens import reject_missing_tokens


@dataclass(frozen=True, slots=True)
class _Context:
    token_ids: list[int]
    mask_positions: list[int]
    top_k: int
    target_ids: list[int] | None


class _MaskSelector(threading.local):
    """Forward hook that keeps only the hidden states of mask tokens.

    Attributes:
        selection: indices of the masks in the batch of the calling thread, with the batch's shape; None to keep all.
    """

    def __init__(self) -> None:
        self.selection: tuple[torch.Tensor, tuple[int, int]] | None = None

    def select(self, _: torch.nn.Module, inputs: tuple[Any, ...]) -> Any:
        """Return the hidden states of the masks, or the inputs if they have another shape."""
        (hidden,) = inputs
        if self.selection is None or hidden.shape[:-1] != self.selection[1]:
            return inputs
        return hidden[tuple(self.selection[0].to(hidden.device))]


class FillMaskRunner(EncoderRunner[FillMaskParameters, _Context, npt.NDArray[np.float32]]):
    """Runner whose answer is a list of candidates for the mask, best first.

    A candidate is `{"score", "token", "token_str", "sequence"}`. A text with several masks gets one list for each.
    """

    spec = SPEC
    parameters_type = FillMaskParameters
    auto_class: ClassVar[Any] = AutoModelForMaskedLM
    supports_cuda_graphs = False  # because of the hook of `_compute_logits`

    def load(self) -> None:
        super().load()
        if self.pretrained.tokenizer.mask_token_id is None:
            raise LoadError(f"the tokenizer of {self.settings.shown_uri} has no mask token: it cannot do fill-mask.")
        # One hook with thread-local state, because several workers compute batches in parallel.
        self._selector = _MaskSelector()
        layer: Any = self.pretrained.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        if layer is not None:
            layer.register_forward_pre_hook(self._selector.select)

    @cached_property
    def defaults(self) -> dict[str, Any]:
        return {"truncation": self.settings.truncates_inputs}

    def examples(self) -> Sequence[Any]:
        mask = self.pretrained.tokenizer.mask_token
        return (f"A first {mask}.", mask)

    def prepare(self, instance: Any, parameters: FillMaskParameters) -> Job[Encoding, _Context]:
        tokenizer = self.pretrained.tokenizer
        if not isinstance(instance, str):
            raise InvalidRequest(f"must be a string that holds {tokenizer.mask_token}, the model's mask token")
        encoding: Encoding = dict(
            tokenizer(instance, truncation=parameters.truncation, max_length=self.pretrained.max_length)
        )
        self.check_length(encoding)
        positions = self._find_masks(encoding)
        if not positions:
            # Only truncation can remove a mask that the text has.
            if parameters.truncation and self._find_masks(dict(tokenizer(instance))):
                raise InvalidRequest(
                    f"truncation to {self.pretrained.max_length} tokens cuts every {tokenizer.mask_token} away: "
                    "shorten the text before it"
                )
            raise InvalidRequest(f"has no mask token: put {tokenizer.mask_token} where a word is to be filled in")
        masks = len(positions)
        self.check_rows(masks, len(encoding["input_ids"]), "text", f"has {masks} masks")
        targets = None if parameters.targets is None else self._resolve_targets(parameters.targets)
        each = min(parameters.top_k, len(tokenizer) if targets is None else len(targets))
        self.check_answers(
            masks * each, "parameters.top_k", f"{each} for each of {masks} masks are {masks * each} answers"
        )
        row = Row(encoding, len(encoding["input_ids"]))
        return Job([row], _Context(encoding["input_ids"], positions, parameters.top_k, targets))

    def forward(self, rows: Sequence[Row[Encoding]]) -> Sequence[npt.NDArray[np.float32]]:
        positions = [self._find_masks(row.inputs) for row in rows]
        logits = self._compute_logits(rows, positions).float().cpu().numpy()
        ends = np.cumsum([len(masks) for masks in positions])
        # Copies, because a slice would keep the scores of the whole batch alive.
        return [part.copy() for part in np.split(logits, ends[:-1])]

    def outputs(self, rows: Sequence[Row[Encoding]]) -> Iterable[Any]:
        """Return the logits of each row's first mask.

        Those of all tokens would take hundreds of megabytes.
        """
        return [self._compute_logits(rows, [self._find_masks(row.inputs)[:1] for row in rows])]

    def finish(self, job: Job[Encoding, _Context], outputs: Sequence[npt.NDArray[np.float32]]) -> Any:
        context = job.context
        scores = torch.from_numpy(outputs[0]).softmax(-1)
        if context.target_ids is not None:
            scores = scores[:, context.target_ids]
        values, indices = scores.topk(min(context.top_k, scores.shape[-1]))
        tokens = indices if context.target_ids is None else torch.tensor(context.target_ids)[indices]
        answers = [
            [self._fill_mask(context, position, token, score) for token, score in zip(*best, strict=True)]
            for position, *best in zip(context.mask_positions, tokens.tolist(), values.tolist(), strict=True)
        ]
        return answers[0] if len(answers) == 1 else answers

    def _fill_mask(self, context: _Context, position: int, token: int, score: float) -> dict[str, Any]:
        tokenizer = self.pretrained.tokenizer
        ids = [*context.token_ids[:position], token, *context.token_ids[position + 1 :]]
        sequence = tokenizer.decode(
            [i for i in ids if i != tokenizer.pad_token_id],
            # With several masks, the other masks stay visible.
            skip_special_tokens=len(context.mask_positions) == 1,
        )
        return {"score": score, "token": token, "token_str": tokenizer.decode([token]), "sequence": sequence}

    def _find_masks(self, encoding: Encoding) -> list[int]:
        mask = self.pretrained.tokenizer.mask_token_id
        return [position for position, token in enumerate(encoding["input_ids"]) if token == mask]

    def _resolve_targets(self, targets: list[str]) -> list[int]:
        """Return one token per target without duplicates: its own, or the first of its tokens."""
        ids: dict[int, None] = {}
        for number, target in enumerate(targets):
            token = self._find_token(target)
            if token is None:
                tokens = self.pretrained.tokenizer(target, add_special_tokens=False)["input_ids"]
                if not tokens:
                    raise InvalidRequest(
                        f"'{target}' gives no token of the model", field=f"parameters.targets[{number}]"
                    )
                token = tokens[0]
            reject_missing_tokens([token], self.pretrained.missing, f"parameters.targets[{number}]")
            ids[token] = None
        return list(ids)

    def _find_token(self, word: str) -> int | None:
        """Return the token of a word, or None if the vocabulary lacks the word.

        A tokenizer returns the unknown token for such a word.
        """
        tokenizer = self.pretrained.tokenizer
        token = tokenizer.convert_tokens_to_ids(word)
        assert not isinstance(token, list), "one word has one token"
        return None if token == tokenizer.unk_token_id and word != tokenizer.unk_token else token

    @torch.inference_mode()
    def _compute_logits(self, rows: Sequence[Row[Encoding]], positions: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return logits (masks, vocabulary) at the given positions of each row.

        The output layer over the vocabulary takes a fifth of BERT's time and nearly all of its memory, so it gets only
        the hidden states of the masks. If a head does not pass hidden states of shape (rows, tokens, hidden) through
        this layer, the logits of all tokens are computed, and those of the masks are selected afterwards.
        """
        index = torch.tensor([(number, position) for number, masks in enumerate(positions) for position in masks]).T
        shape = len(rows), max(row.length for row in rows)
        self._selector.selection = index, shape
        try:
            logits: torch.Tensor = self.run_model(rows).logits
        finally:
            self._selector.selection = None
        return logits if logits.dim() == 2 else logits[tuple(index.to(logits.device))]


#: Runner of this task.
RUNNER = FillMaskRunner
