"""Comparison of a served model with plain transformers: model outputs and answers."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import AutoTokenizer

from hf_runtime.contract.errors import ServingError
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.generate.continuous import ContinuousDecoder
from runners.engines.rows import Row
from runners.engines.runner import Runner
from runners.kernels.host_cpu import supports_tiles
from runners.kernels.instructions import supports_int8
from runners.kernels.int8 import Int8Linear
from runners.kernels.layout import fits_registers
from runners.kernels.packed import PackedLinear
from runners.kernels.rounding import is_within_rounding
from runners.registry import create_runner
from runners.tasks.encoder import EncoderRunner
from tests.generators import generator_of, pretrained_of
from tests.public_sizes.checkpoint import AUTO_CLASSES
from tests.public_sizes.models import PublicModel

#: Settings of each mode in which a model is served.
MODES: Mapping[str, Mapping[str, Any]] = {
    "accelerated": {},
    "plain": {"acceleration": False},
    "bfloat16": {"torch_dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
}

#: The last outputs of a head over a vocabulary, which are compared separately as well: an error in them would be
#: negligible among all others.
_LAST = 32

#: Distance in the vocabulary between two words of an input, so that inputs cover all parts of it.
_STRIDE = 7919

#: Bias on the logit of a token that must be generated.
_FORCED = 100.0

#: Types of models whose layers are one fused program if heads fill whole registers: encoders, then decoders.
_IN_ONE = frozenset({"bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"})
_STEPS_IN_ONE = frozenset({"llama", "mistral", "qwen2", "qwen3"})

#: Types whose sequences cannot join a running batch.
_TOGETHER = frozenset({"bloom", "gemma2", "gpt_neo"})

#: Minimal number of different tokens over all prompts: a model that repeats itself would hide mistakes.
_LEAST_TOKENS = 5

#: Number of likeliest tokens that are compared at each position of generated text.
_LIKELIEST = 10

#: Either of two tokens is right if their logits differ by less than this part of the logits' size in float32, which is
#: a tenth of the tolerance for rounding.
_TIE = 1e-4


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """Generated tokens of one item.

    Attributes:
        first: logits of the first token, as the model's head returns them; shape (vocabulary,).
        tokens: all new tokens.
        logits: of each new token, as the model returns them; shape (tokens, vocabulary).
    """

    first: torch.Tensor
    tokens: list[int]
    logits: torch.Tensor


@dataclass(frozen=True, slots=True)
class Expected:
    """Results of the plain model for items, each by itself.

    Attributes:
        numbers: for each, the outputs behind its answer: logits, or vectors; empty for generated text.
        generated: for each, the generated tokens of a generative model.
    """

    items: Sequence[Item]
    numbers: Sequence[torch.Tensor] = ()
    generated: Sequence[SequenceOutput] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of the comparison for a served model.

    Attributes:
        wrong: descriptions of all differences.
        deviation: of the outputs, relative to their size: the largest of all items.
    """

    wrong: Sequence[str]
    deviation: float


def settings(model: PublicModel, folder: Path, mode: str) -> ModelSettings:
    """Return settings of a server with one model and without calibration."""
    return ModelSettings(storage_uri=str(folder), task=model.task, calibration_seconds=0, **MODES[mode])


def unable(mode: str) -> str | None:
    """Return the reason why this machine cannot serve a model in a mode; None if it can."""
    return "the CPU has no VNNI" if mode == "int8" and not supports_int8() else None


# The plain model


@torch.inference_mode()
def expect(model: PublicModel, folder: Path) -> Expected:
    """Compute the results of plain transformers, one item at a time, in float32."""
    auto_class = AUTO_CLASSES[model.task]
    plain: Any = auto_class.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    items = list(_items(model, plain, tokenizer))
    if model.task in ("text-generation", "text2text-generation"):
        return Expected(items, generated=[_generate(model, plain, tokenizer, item) for item in items])
    numbers = []
    for item in items:
        encoding = tokenizer(*_texts(item.instance), return_tensors="pt")
        numbers.append(_numbers(model, plain(**encoding), 0, None, encoding["input_ids"] == tokenizer.mask_token_id))
    return Expected(items, numbers)


def _items(model: PublicModel, plain: Any, tokenizer: Any) -> Iterator[Item]:
    """Build inputs of one word, of several and of many.

    They hold the last tokens of the vocabulary.
    """
    vocabulary = plain.get_input_embeddings().weight.shape[0]
    special = set(tokenizer.all_special_ids)

    def words(count: int, start: int) -> list[int]:
        """Return words, beginning with the vocabulary's last ones."""
        last = [vocabulary - 1 - back for back in (0, 1, 15, 16, 17)]
        rest = [
            (start + number * _STRIDE) % vocabulary for number in range(vocabulary if vocabulary < 99 else 2 * count)
        ]
        known = [token for token in (*last, *rest) if token not in special]
        return (known * (count // len(known) + 1))[:count]

    def text(count: int, start: int) -> str:
        return str(" ".join(tokenizer.convert_ids_to_tokens(words(count, start))))

    match model.task:
        case "text-generation" | "text2text-generation":
            yield from _prompts(model, words, text, vocabulary)
        case "text-classification" if model.pairs:
            for first, second in ((1, 1), (4, 9), (model.long // 2, model.long // 2), (2, 6)):
                instance = {"text": text(first, second), "text_pair": text(second, 3)}
                yield Item(instance, {"top_k": None, **model.parameters})
        case "question-answering":
            for first, second in ((1, 2), (4, 9), (5, model.long - 5), (2, 6)):
                yield Item({"question": text(first, second), "context": text(second, 3)}, dict(model.parameters))
        case "fill-mask":
            mask = tokenizer.mask_token
            yield Item(mask, {"top_k": 9})
            for count in (4, model.long, 7):
                before, after = text(count // 2, count), text(count - count // 2, 5)
                yield Item(f"{before} {mask} {after}", {"top_k": 9, **model.parameters})
        case "text-classification":
            for count in (1, 5, model.long, 9):
                yield Item(text(count, count), {"top_k": None, **model.parameters})
        case "token-classification":
            for count in (1, 5, model.long, 9):
                yield Item(text(count, count), {"ignore_labels": [], **model.parameters})
        case _:
            for count in (1, 5, model.long, 9):
                yield Item(text(count, count), dict(model.parameters))


def _prompts(model: PublicModel, words: Any, text: Any, vocabulary: int) -> Iterator[Item]:
    """Build prompts as text and as tokens; a bias forces certain tokens after some of them."""
    usual = {"max_new_tokens": 4, "details": True, "logprobs": _LIKELIEST}
    usual |= {"return_full_text": False} if model.task == "text-generation" else {}
    yield Item(text(1, 4), usual)
    yield Item(text(7, 5), usual)
    yield Item(words(5, 6), usual)
    yield Item(words(model.long, 8), usual)
    for token in (vocabulary - 1, vocabulary - 17):
        yield Item(words(3, token), {**usual, "max_new_tokens": 2, "logit_bias": {str(token): _FORCED}})


def _texts(instance: Any) -> list[str]:
    return list(instance.values()) if isinstance(instance, dict) else [instance]


def _numbers(
    model: PublicModel, output: Any, row: int, length: int | None, masks: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the outputs behind the answer to a row of a batch.

    Args:
        length: tokens of the row; None for all.
        masks: shape (1, tokens); positions that a fill-mask model has to fill in.
    """
    if model.task == "question-answering":
        return torch.stack([output.start_logits[row, :length], output.end_logits[row, :length]]).clone()
    if model.task == "text-classification":
        return cast(torch.Tensor, output.logits[row].clone())
    if model.task == "fill-mask":
        assert masks is not None, "this is a bug: nobody says where to fill in"
        return cast(torch.Tensor, output.logits[row][masks[0]].clone())
    numbers: torch.Tensor = output[0][row, :length]
    return numbers.clone()


def _generate(model: PublicModel, plain: Any, tokenizer: Any, item: Item) -> SequenceOutput:
    """Generate the likeliest tokens by `generate`; return them with their logits."""
    ids = item.instance if isinstance(item.instance, list) else tokenizer(item.instance)["input_ids"]
    inputs = torch.tensor([ids])
    bias = {(int(token),): value for token, value in item.parameters.get("logit_bias", {}).items()}
    whole = plain.generate(
        inputs, attention_mask=torch.ones_like(inputs), do_sample=False, sequence_bias=bias or None,
        max_new_tokens=item.parameters["max_new_tokens"], pad_token_id=tokenizer.pad_token_id or 0,
    )  # fmt: skip
    given = torch.zeros(0)

    def keep(_: Any, __: Any, output: torch.Tensor) -> None:
        nonlocal given
        given = output

    hook = plain.get_output_embeddings().register_forward_hook(keep)
    if plain.config.is_encoder_decoder:
        tokens: list[int] = whole[0, 1:].tolist()
        logits = plain(input_ids=inputs, decoder_input_ids=whole[:, :-1], use_cache=False).logits[0]
    else:
        tokens = whole[0, len(ids) :].tolist()
        # All logits of a long prompt would need a gigabyte.
        few = {"logits_to_keep": len(tokens)} if "logits_to_keep" in signature(plain.forward).parameters else {}
        logits = plain(input_ids=whole[:, :-1], use_cache=False, **few).logits[0]
    hook.remove()
    return SequenceOutput(given[0, -len(tokens)].clone(), tokens, logits[-len(tokens) :].clone())


# The served model


def compare(model: PublicModel, folder: Path, mode: str, expected: Expected) -> Outcome:
    """Load a model as a server does, send it the items, and compare."""
    runner = create_runner(settings(model, folder, mode))
    runner.load()
    runner.warm_up()
    check = _Check(model, mode)
    check.form(runner)
    if isinstance(runner, EncoderRunner):
        check.numbers(runner, expected)
        check.answers(runner, expected)
    else:
        check.texts(runner, expected)
    return Outcome(check.wrong, check.deviation)


class _Check:
    """Collector of all differences."""

    def __init__(self, model: PublicModel, mode: str) -> None:
        self._model, self._mode = model, mode
        self._int8 = mode == "int8"
        self._exact = mode in ("accelerated", "plain")
        self._dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
        self.wrong: list[str] = []
        self.deviation = 0.0

    def form(self, runner: Any) -> None:
        """Check that the optimized form computes; else the model would be compared with itself."""
        served = pretrained_of(runner).model
        kinds = {type(module) for module in served.modules()}
        packed = any(issubclass(kind, PackedLinear) for kind in kinds)
        if self._mode == "plain":
            self._hold(not packed, "a layer is packed")
        if self._int8:
            self._hold(any(issubclass(kind, Int8Linear) for kind in kinds), "no layer is in eight bits")
        if self._mode != "accelerated" or not supports_tiles():
            return
        self._hold(packed or not self._model.packs, "no layer is packed")
        kind, size = served.config.model_type, served.config.hidden_size // served.config.num_attention_heads
        if isinstance(runner, EncoderRunner):
            program = pretrained_of(runner).program is not None
            self._hold(program or kind not in _IN_ONE or not fits_registers(size), "its layers are no program")
        elif self._model.task == "text-generation":
            joins = isinstance(generator_of(runner).decoder, ContinuousDecoder)
            self._hold(joins or kind in _TOGETHER, "its sequences wait for one another")
            program = any("forward" in vars(one) for one in served.modules() if type(one).__name__.endswith("Layer"))
            self._hold(program or kind not in _STEPS_IN_ONE, "its layers are no program")

    @torch.inference_mode()
    def numbers(self, runner: EncoderRunner[Any, Any, Any], expected: Expected) -> None:
        """Compare each row alone, and all rows in one batch."""
        rows = [runner.prepare_item(item).rows[0] for item in expected.items]
        alone = [self._computed(runner, [row])[0] for row in rows]
        self._same("alone", alone, expected.numbers)
        if len({row.key for row in rows}) == 1:
            together = self._computed(runner, rows)
            self._same("in company", together, expected.numbers)
            self._same("in company, beside alone", together, alone)
        else:
            self._hold(False, "rows of several lengths share no batch")

    def _computed(self, runner: EncoderRunner[Any, Any, Any], rows: Sequence[Row[Any]]) -> list[torch.Tensor]:
        if self._model.task == "fill-mask":
            return [torch.from_numpy(output) for output in runner.forward(rows)]
        output = runner.run_model(rows)
        return [_numbers(self._model, output, number, row.length) for number, row in enumerate(rows)]

    def answers(self, runner: EncoderRunner[Any, Any, Any], expected: Expected) -> None:
        """Compare the answers with those that follow from the plain model's outputs."""
        together = runner.predict(expected.items)
        for number, (item, answer) in enumerate(zip(expected.items, together, strict=True)):
            (alone,) = runner.predict([item])
            if isinstance(answer, ServingError) or isinstance(alone, ServingError):
                self._hold(False, f"item {number} is refused: {answer}, {alone}")
            elif self._exact:
                job = runner.prepare_item(item)
                right = runner.finish(job, [self._output(expected.numbers[number])])
                self._same_answer(f"the answer to item {number}", answer, right)
                self._same_answer(f"the answer to item {number} alone", alone, right)

    def _output(self, numbers: torch.Tensor) -> Any:
        """Convert the plain model's outputs to the result of a runner's `forward`."""
        if self._model.task == "token-classification":
            return numbers.softmax(-1).numpy()
        match self._model.parameters.get("pooling"):
            case "mean":
                return numbers.mean(0).numpy()
            case "cls":
                return numbers[0].numpy()
            case "last_token":
                return numbers[-1].numpy()
        return numbers.numpy()

    def texts(self, runner: Runner[Any, Any, Any, Any], expected: Expected) -> None:
        """Compare all prompts in one batch, and each alone."""
        tokens = {token for generated in expected.generated for token in generated.tokens}
        self._hold(len(tokens) >= _LEAST_TOKENS, f"the model alone writes {tokens} and nothing else")
        model: Any = pretrained_of(runner).model
        firsts = []
        for answers, company in ((runner.predict(expected.items), "in company"), (None, "alone")):
            for number, (item, right) in enumerate(zip(expected.items, expected.generated, strict=True)):
                if answers is not None:
                    answer = answers[number]
                else:
                    answer, first = self._alone(runner, model, item)
                    firsts.append(first)
                if isinstance(answer, ServingError):
                    self._hold(False, f"item {number} {company} is refused: {answer}")
                elif self._exact:
                    self._same_text(f"item {number} {company}", runner, answer[0], item, right)
        self._same("logits of the first token", firsts, [right.first for right in expected.generated])

    def _alone(self, runner: Runner[Any, Any, Any, Any], model: Any, item: Item) -> tuple[Any, torch.Tensor]:
        """Return the answer, and the head's logits for the first token."""
        given: list[torch.Tensor] = []

        def keep(_: Any, __: Any, output: torch.Tensor) -> None:
            # While a prompt is prefilled in chunks, no token is computed.
            rows = output.flatten(0, -2)
            if len(rows) and not given:
                given.append(rows[-1].float().clone())

        hook = model.get_output_embeddings().register_forward_hook(keep)
        try:
            (answer,) = runner.predict([item])
        finally:
            hook.remove()
        return answer, given[0]

    def _same_text(
        self,
        what: str,
        runner: Runner[Any, Any, Any, Any],
        answer: Mapping[str, Any],
        item: Item,
        right: SequenceOutput,
    ) -> None:
        reported: list[Mapping[str, Any]] = answer["logprobs"]
        tokens = [place["id"] for place in reported]
        bias = {int(token): value for token, value in item.parameters.get("logit_bias", {}).items()}
        agree = 0
        while agree < min(len(tokens), len(right.tokens)) and tokens[agree] == right.tokens[agree]:
            agree += 1
        if tokens != right.tokens:
            tie = agree < min(len(tokens), len(right.tokens)) and self._tie(right, agree, tokens[agree], bias)
            self._hold(tie, f"{what}: tokens {tokens} in place of {right.tokens}")
        elif not bias:
            tokenizer: Any = pretrained_of(runner).tokenizer
            said = tokenizer.decode(tokens, skip_special_tokens=True).split()
            self._hold(answer["generated_text"].split() == said, f"{what}: {answer['generated_text']!r} is not {said}")
        # The text before the first difference is the same, so its position can still be compared.
        for place, logits in zip(reported[: agree + 1], right.logits, strict=False):
            logprobs = logits.log_softmax(-1)
            # Relative to their mean, because the logarithm of a vocabulary's size would hide differences.
            mean = logprobs.mean()
            of = [place, *place["top"]]
            said_of = torch.tensor([one["logprob"] for one in of]) - mean
            right_of = logprobs[[one["id"] for one in of]] - mean
            self._same(f"{what}: log probabilities", [said_of], [right_of])
            best = torch.tensor([one["logprob"] for one in place["top"]]) - mean
            self._same(f"{what}: the likeliest", [best], [logprobs.topk(len(best)).values - mean])

    def _tie(self, right: SequenceOutput, place: int, token: int, bias: Mapping[int, float]) -> bool:
        logits = right.logits[place]
        chosen, best = (float(logits[one]) + bias.get(one, 0.0) for one in (token, right.tokens[place]))
        size = float(logits.square().mean().sqrt())
        return abs(best - chosen) <= _TIE * size

    def _same_answer(self, what: str, answer: Any, right: Any) -> None:
        (words, numbers), (right_words, right_numbers) = _parts(answer), _parts(right)
        self._hold(words == right_words, f"{what}: {words[:9]} in place of {right_words[:9]}")
        if numbers.shape == right_numbers.shape:
            self._same(what, [numbers], [right_numbers])
        else:
            self._hold(False, f"{what}: {len(numbers)} numbers in place of {len(right_numbers)}")

    def _same(self, what: str, computed: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> None:
        """Compare each item separately in float32, and all together if rounding is coarser.

        A single value may be small by chance.
        """
        computed, right = [one.float() for one in computed], [one.float() for one in right]
        shapes = [one.shape for one in computed], [one.shape for one in right]
        if shapes[0] != shapes[1]:
            self._hold(False, f"{what}: shapes {shapes[0]} in place of {shapes[1]}")
            return
        pairs = list(zip(computed, right, strict=True))
        parts = [([one], [other]) for one, other in pairs] if self._exact else [(computed, right)]
        if all(one.shape[-1] > 4 * _LAST for one in right):
            parts += [
                ([one[..., -_LAST:] for one in ours], [one[..., -_LAST:] for one in true]) for ours, true in parts
            ]
        for ours, true in parts:
            off = _deviation(ours, true)
            self.deviation = max(self.deviation, off)
            self._hold(
                is_within_rounding(ours, true, self._dtype, int8=self._int8), f"{what}: off by {off:.1e} of their size"
            )

    def _hold(self, right: bool, what: str) -> None:
        if not right:
            self.wrong.append(what)


def _deviation(computed: Iterable[torch.Tensor], right: Iterable[torch.Tensor]) -> float:
    """Return the root mean square of the difference, relative to that of the right values."""
    ours, true = (torch.cat([one.flatten() for one in given]) for given in (computed, right))
    return float((ours - true).norm() / true.norm().clamp(min=1e-30))


def _parts(answer: Any) -> tuple[list[Any], torch.Tensor]:
    """Split an answer into its fractions and everything else."""
    words: list[Any] = []
    numbers: list[float] = []

    def gather(part: Any) -> None:
        match part:
            case dict():
                for name, value in part.items():
                    words.append(name)
                    gather(value)
            case list() | tuple():
                for value in part:
                    gather(value)
            case np.ndarray():
                words.append(part.shape)
                numbers.extend(part.ravel().tolist())
            case float() | np.floating():
                numbers.append(float(part))
            case _:
                words.append(part)

    gather(answer)
    return words, torch.tensor(numbers)


def forget() -> None:
    """Free the memory of models without references."""
    gc.collect()
