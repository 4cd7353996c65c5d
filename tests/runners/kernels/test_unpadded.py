"""Promises of batches without padding: each sequence has the same output as alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers

from runners.kernels.unpadded import ATTENTION_NAME, install_unpadded

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 99,
}
_IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_DISTILBERT: dict[str, Any] = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 99}

_LENGTHS = (3, 11, 1, 7)


def _create_model(architecture: str, head: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(**options)
    return getattr(transformers, architecture + head)(config).eval()


def _create_batch(lengths: Sequence[int] = _LENGTHS) -> dict[str, torch.Tensor]:
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(3, 99, (length,))
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("Bert", "Model"), ("Bert", "ForSequenceClassification"), ("Bert", "ForTokenClassification"),
        ("Bert", "ForQuestionAnswering"), ("Bert", "ForMaskedLM"), ("Roberta", "ForSequenceClassification"),
        ("XLMRoberta", "Model"), ("Electra", "ForTokenClassification"), ("Camembert", "ForMaskedLM"),
    ],
)  # fmt: skip
@torch.inference_mode()
def test_each_sequence_of_a_batch_has_the_same_output_as_alone(architecture: str, head: str) -> None:
    model = _create_model(architecture, head, **_SIZES, **_IDS)
    batch = _create_batch()
    alone = [model(input_ids=batch["input_ids"][row : row + 1, :n])[0][0] for row, n in enumerate(_LENGTHS)]
    assert install_unpadded(model)
    outputs = model(**batch)[0]
    for output, expected, length in zip(outputs, alone, _LENGTHS, strict=True):
        computed = output[:length] if output.shape[0] == max(_LENGTHS) else output
        torch.testing.assert_close(computed, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lengths", [(3, 95, 96, 97, 150), (96, 96), (97, 97)], ids=str)
@torch.inference_mode()
def test_sequences_of_any_length_have_the_plain_models_output(lengths: tuple[int, ...]) -> None:
    model = _create_model("Bert", "Model", **_SIZES, **_IDS)
    batch = _create_batch(lengths)
    expected = model(**batch).last_hidden_state
    assert install_unpadded(model)
    outputs = model(**batch).last_hidden_state
    for output, right, length in zip(outputs, expected, lengths, strict=True):
        torch.testing.assert_close(output[:length], right[:length], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("length", [5, 19, 49])
@torch.inference_mode()
def test_a_single_sequence_has_the_plain_models_output_in_both_types(length: int) -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        model = _create_model("Bert", "Model", **_SIZES, **_IDS).to(dtype)
        batch = _create_batch((length,))
        expected = model(**batch).last_hidden_state
        assert install_unpadded(model)
        output = model(**batch).last_hidden_state
        assert output.shape == expected.shape
        torch.testing.assert_close(output, expected, atol=tolerance, rtol=tolerance)


@torch.inference_mode()
def test_distilbert_computes_the_same_without_padding() -> None:
    model = _create_model("DistilBert", "ForSequenceClassification", **_DISTILBERT)
    batch = _create_batch()
    expected = model(**batch).logits
    assert install_unpadded(model)
    torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_padding_is_not_computed() -> None:
    model = _create_model("Bert", "Model", **_SIZES, **_IDS)
    assert install_unpadded(model)
    seen: list[int] = []
    model.encoder.layers.layer[0].intermediate.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].shape[:-1].numel())
    )
    model(**_create_batch())
    assert seen == [32]  # 22 tokens rounded up to a size of the kernels; with padding there are 44


@pytest.mark.parametrize(
    "model",
    [
        _create_model("Deberta", "Model", **_SIZES, relative_attention=True, pos_att_type=["c2p"]),
        _create_model("MPNet", "Model", **_SIZES, **_IDS),
        _create_model("Llama", "ForSequenceClassification", **_SIZES, **_IDS, num_key_value_heads=2),
        _create_model("RoFormer", "Model", **_SIZES, **_IDS),
        _create_model("FNet", "Model", hidden_size=32, num_hidden_layers=2, intermediate_size=64, vocab_size=99),
    ],
    ids=lambda model: type(model).__name__,
)
@torch.inference_mode()
def test_an_unsupported_model_is_unchanged(model: Any) -> None:
    batch = _create_batch()
    expected = model(**batch)[0]
    attention = model.config._attn_implementation
    assert not install_unpadded(model)
    assert model.config._attn_implementation == attention != ATTENTION_NAME
    torch.testing.assert_close(model(**batch)[0], expected)
