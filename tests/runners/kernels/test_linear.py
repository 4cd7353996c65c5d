"""Promises of packed linear layers: the same results as PyTorch's for all shapes, and the fastest form."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from runners.kernels import linear
from runners.kernels.host_cpu import supports_tiles
from runners.kernels.linear import choose_forms, find_linear_layers, get_weight_and_bias, pack_layers
from runners.kernels.packed import Form, OneDnnLinear, PackedLinear, TiledForm, TiledLinear, round_up_rows
from tests.runners.kernels.compiled import get_float32_kernels

pytestmark = pytest.mark.skipif(not OneDnnLinear.supports(torch.float32), reason="this PyTorch has no oneDNN")


def _create_tiled(weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLinear:
    return TiledForm(get_float32_kernels())(weight, bias)


needs_tiles = pytest.mark.skipif(not supports_tiles(), reason="this CPU has no AVX2")
forms = pytest.mark.parametrize("form", [OneDnnLinear, pytest.param(_create_tiled, marks=needs_tiles)])


@pytest.mark.parametrize(
    "shape", [(33,), (0, 33), (1, 33), (5, 33), (16, 33), (3, 7, 33), (1, 2, 0, 33), (260, 33)], ids=str
)
#: Whole panels of 16 outputs, one more or less, and a single output.
@pytest.mark.parametrize("outputs", [1, 16, 17, 48, 111, 112, 113])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@forms
@torch.inference_mode()
def test_a_packed_layer_computes_the_same_as_the_plain_layer(
    form: Form, shape: tuple[int, ...], outputs: int, bias: bool
) -> None:
    plain = nn.Linear(33, outputs, bias=bias)
    packed = form(*get_weight_and_bias(plain))
    inputs = torch.randn(shape)
    torch.testing.assert_close(packed(inputs), plain(inputs))


@forms
@torch.inference_mode()
def test_a_packed_layer_computes_any_number_of_rows_with_any_number_of_threads(form: Form) -> None:
    before = torch.get_num_threads()
    plain = nn.Linear(200, 307)
    packed = form(*get_weight_and_bias(plain))
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for rows in (1, 2, 3, 7, 16, 33, 100, 256, 257, 700):
                inputs = torch.randn(rows, 200)
                torch.testing.assert_close(packed(inputs), plain(inputs))
    finally:
        torch.set_num_threads(before)


@forms
@torch.inference_mode()
def test_inputs_may_have_any_strides(form: Form) -> None:
    plain = nn.Linear(33, 32)
    packed = form(*get_weight_and_bias(plain))
    for inputs in (torch.randn(33, 4).t(), torch.randn(16, 66)[:, ::2], torch.randn(2, 33, 3).transpose(1, 2)):
        torch.testing.assert_close(packed(inputs), plain(inputs))


@forms
@torch.inference_mode()
def test_transposed_layers_of_gpt2_are_packed(form: Form) -> None:
    plain = Conv1D(32, 33)  # type: ignore[no-untyped-call]
    packed = form(*get_weight_and_bias(plain))
    inputs = torch.randn(2, 5, 33)
    torch.testing.assert_close(packed(inputs), plain(inputs))


@pytest.mark.skipif(not OneDnnLinear.supports(torch.bfloat16), reason="this CPU does not compute bfloat16")
@torch.inference_mode()
def test_bfloat16_stays_bfloat16() -> None:
    plain = nn.Linear(64, 32).bfloat16()
    inputs = torch.randn(5, 64).bfloat16()
    torch.testing.assert_close(OneDnnLinear(*get_weight_and_bias(plain))(inputs), plain(inputs), atol=2e-2, rtol=2e-2)


@forms
def test_shape_type_and_device_of_packed_weights_can_be_read(form: Form) -> None:
    weight = form(torch.randn(32, 33), None).weight
    assert (weight.shape, weight.dtype, weight.device.type) == ((32, 33), torch.float32, "cpu")


def test_subclasses_of_linear_are_not_packed() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # its name in torch
            return 2 * super().forward(input)

    module = nn.Sequential(nn.Linear(4, 4), Doubled(4, 4), nn.Sequential(nn.Linear(4, 4)))
    assert [name for _, name, _ in find_linear_layers(module)] == ["0", "0"]
    assert pack_layers(module, {(4, 4): OneDnnLinear}) == 2
    assert [type(layer).__name__ for layer in module] == ["OneDnnLinear", "Doubled", "Sequential"]


def test_row_counts_are_rounded_up_to_few_sizes_with_little_padding() -> None:
    numbers = {round_up_rows(rows) for rows in range(2049)}
    assert len(numbers) < 80
    for rows in range(2049):
        assert round_up_rows(round_up_rows(rows)) == round_up_rows(rows) >= rows
        assert rows <= 256 or round_up_rows(rows) <= 1.0625 * rows


def test_only_layers_of_the_given_shapes_are_packed() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 4))
    assert pack_layers(module, {(6, 4): OneDnnLinear}) == 1
    assert [type(layer).__name__ for layer in module] == ["Linear", "OneDnnLinear", "Linear"]


@pytest.mark.parametrize(
    ("few", "many", "is_packed"),
    [(0.8, 0.8, True), (1.3, 0.9, False), (1.4, 0.6, True), (1.2, 1.1, False), (1.5, 0.5, False)],
)
def test_a_shape_is_packed_if_it_is_faster_on_average_and_never_much_slower(
    monkeypatch: pytest.MonkeyPatch, few: float, many: float, is_packed: bool
) -> None:
    """`few` and `many` are the times of packed layers relative to plain ones, with one row and with ten."""

    def measure(layers: Sequence[nn.Module], inputs: torch.Tensor) -> float:
        ratio = few if len(inputs) == 1 else many
        is_packed_first = isinstance(layers[0], OneDnnLinear) and layers[0].in_features == 33
        return ratio if is_packed_first else 2.0 if isinstance(layers[0], PackedLinear) else 1.0

    monkeypatch.setattr(linear, "_measure_layers", measure)
    model = nn.Sequential(nn.Linear(33, 17), nn.ReLU(), nn.Linear(17, 5))
    assert choose_forms(model, (1, 10)) == ({(17, 33): OneDnnLinear} if is_packed else {})
    assert not isinstance(model[0], PackedLinear)


@needs_tiles
@torch.inference_mode()
def test_a_tokens_output_from_tiles_is_bit_identical_in_any_batch() -> None:
    layer, token, before = (
        _create_tiled(torch.randn(112, 4096), torch.randn(112)),
        torch.randn(1, 4096),
        torch.get_num_threads(),
    )
    alone = layer(token)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for others in (1, 6, 7, 8, 40, 300):
                assert torch.equal(layer(torch.cat([token, torch.randn(others, 4096)]))[:1], alone)
    finally:
        torch.set_num_threads(before)


@needs_tiles
def test_layers_that_fill_panels_can_be_tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_measure_layers", lambda layers, _: 0.5 if isinstance(layers[0], TiledLinear) else 1.0)
    tiled = TiledForm(get_float32_kernels())
    model = nn.Sequential(nn.Linear(33, 48), nn.Linear(48, 17))
    assert choose_forms(model, (1, 10), tiled) == {(48, 33): tiled}
    assert choose_forms(model.bfloat16(), (1, 10), tiled) == {}
    monkeypatch.setattr(OneDnnLinear, "supports", lambda _: False)
    assert choose_forms(model.float(), (1, 10), tiled) == {(48, 33): tiled}


@needs_tiles
@pytest.mark.parametrize(("others", "are_kept"), [(0.9, True), (0.7, False)])
def test_only_clearly_faster_forms_replace_tiles(
    monkeypatch: pytest.MonkeyPatch, others: float, are_kept: bool
) -> None:
    monkeypatch.setattr(
        linear, "_measure_layers", lambda layers, _: 1.0 if isinstance(layers[0], TiledLinear) else others
    )
    tiled = TiledForm(get_float32_kernels())
    assert choose_forms(nn.Sequential(nn.Linear(33, 48)), (1, 10), tiled) == ({(48, 33): tiled} if are_kept else {})


@needs_tiles
def test_a_form_slower_than_tiles_is_measured_twice_with_few_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[bool, int]] = []

    def measure(layers: Sequence[nn.Module], inputs: torch.Tensor) -> float:
        tiles = isinstance(layers[0], TiledLinear)
        tried.append((tiles, len(inputs)))
        return 1.0 if tiles else 1.1

    monkeypatch.setattr(linear, "_measure_layers", measure)
    tiled = TiledForm(get_float32_kernels())
    assert choose_forms(nn.Sequential(nn.Linear(33, 48)), (1, 10), tiled) == {(48, 33): tiled}
    # Tiles, plain layers and oneDNN, twice.
    assert sorted(tried) == sorted([(True, 1), (False, 1), (False, 1)] * 2)


def test_a_form_with_unstable_times_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    disturbed = itertools.chain([9.0, 8.0, 7.0, 6.0, 5.0], itertools.repeat(0.5))

    def measure(layers: Sequence[nn.Module], _: torch.Tensor) -> float:
        return next(disturbed) if isinstance(layers[0], OneDnnLinear) else 1.0

    monkeypatch.setattr(linear, "_measure_layers", measure)
    monkeypatch.setattr(linear, "_MAX_SECONDS", 60)
    monkeypatch.setattr(linear, "_SAMPLE_BYTES", 1)
    assert choose_forms(nn.Sequential(nn.Linear(33, 17)), (10,)) == {(17, 33): OneDnnLinear}


def test_each_shape_is_measured_with_several_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(linear, "_SAMPLE_BYTES", 8 * 8 * 4 * 3)

    def record(layers: Sequence[nn.Module], *_: Any) -> None:
        tried.append(len(layers))

    monkeypatch.setattr(linear, "_pick_fastest_form", record)
    model = nn.Sequential(nn.Linear(8, 1000), nn.Sequential(*(nn.Linear(8, 8) for _ in range(6))))
    assert choose_forms(model, (1,)) == {}
    assert tried == [1, 3]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_part_of_a_large_layer_is_measured(monkeypatch: pytest.MonkeyPatch, bias: bool) -> None:
    monkeypatch.setattr(linear, "_SAMPLE_BYTES", 33 * 4 * 150)
    outputs: set[int] = set()

    def measure(layers: Sequence[nn.Module], inputs: torch.Tensor) -> float:
        outputs.update(layer(inputs).shape[1] for layer in layers)
        return 0.5 if isinstance(layers[0], OneDnnLinear) else 1.0

    monkeypatch.setattr(linear, "_measure_layers", measure)
    assert choose_forms(nn.Sequential(nn.Linear(33, 200, bias=bias)), (1, 10)) == {(200, 33): OneDnnLinear}
    assert outputs == {128}


@needs_tiles
@pytest.mark.parametrize("outputs", [337, 338, 351, 352, 353])
@torch.inference_mode()
def test_a_large_head_with_any_number_of_outputs_is_packed_in_the_measured_form(
    monkeypatch: pytest.MonkeyPatch, outputs: int
) -> None:
    """Vocabularies are rarely multiples of 16: GPT-2 has 50,257 tokens, BERT 30,522."""
    monkeypatch.setattr(linear, "_SAMPLE_BYTES", 33 * 4 * 150)
    monkeypatch.setattr(linear, "_measure_layers", lambda layers, _: 0.5 if isinstance(layers[0], TiledLinear) else 1.0)
    tiled = TiledForm(get_float32_kernels())
    head = nn.Linear(33, outputs)
    model, inputs = nn.Sequential(head), torch.randn(5, 33)
    forms = choose_forms(model, (1, 10), tiled)
    assert forms == {(outputs, 33): tiled}
    assert pack_layers(model, forms) == 1
    torch.testing.assert_close(model(inputs), head(inputs))


@needs_tiles
def test_layers_with_few_outputs_are_not_padded_to_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_measure_layers", lambda layers, _: 0.5 if isinstance(layers[0], TiledLinear) else 1.0)
    model = nn.Sequential(nn.Linear(33, 1), nn.Linear(33, 2), nn.Linear(33, 17), nn.Linear(33, 65))
    assert choose_forms(model, (1, 10), TiledForm(get_float32_kernels())) == {}


def test_forms_can_be_measured_for_any_model() -> None:
    assert choose_forms(nn.Sequential(nn.Linear(33, 17), nn.Linear(17, 5)), (1, 16)).keys() <= {(17, 33), (5, 17)}
    assert not choose_forms(nn.ReLU(), (1, 16))
