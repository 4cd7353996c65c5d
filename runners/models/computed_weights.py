"""Find weights that a checkpoint may lack, as the model computes them by itself."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

_FLAG = "_is_hf_initialized"
_SEEDS = (1, 2)


def computed_weights(model: PreTrainedModel, missing: Iterable[str]) -> set[str]:
    """Names of missing weights whose initial value does not depend on chance: sinusoids, frequencies, zeros.

    They are initialized twice, by transformers' own functions, from different random numbers and under different
    seeds. Nothing else of the model is touched, and no other weight is copied. Zeros beside random weights of the same
    module are not among them: that module is missing as a whole.

    Args:
        model: as `from_pretrained` left it.
        missing: names of weights and buffers, as it reports them.
    """
    tensors = dict(_named_tensors(model))
    asked = {name: tensors[name] for name in missing if name in tensors and not tensors[name].is_meta}
    if not asked:
        return set()
    loaded = {name: tensor.detach().clone() for name, tensor in asked.items()}
    ours = {id(tensor) for tensor in asked.values()}
    initialized = {model.get_submodule(path) for name in asked for path in _paths(name, model.is_custom_code())}
    # Code of a model's own may write to what is beside them, whatever its flag says.
    beside = [
        (tensor, tensor.detach().clone())
        for module in initialized
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if model.is_custom_code() and id(tensor) not in ours and not tensor.is_meta
    ]
    for tensor in tensors.values():
        setattr(tensor, _FLAG, id(tensor) not in ours)
    computed = set(asked)
    with torch.no_grad(), torch.random.fork_rng():
        try:
            for seed in _SEEDS:
                for module in model.modules():
                    setattr(module, _FLAG, module not in initialized)
                torch.manual_seed(seed)
                for tensor in asked.values():
                    _fill_at_random(tensor)
                model.initialize_weights()  # type: ignore[no-untyped-call]
                computed = {name for name in computed if torch.equal(asked[name], loaded[name])}
        except Exception:
            # Code of a model's own that cannot do it a second time: nothing is known then.
            computed = set()
        finally:
            for name, tensor in asked.items():
                tensor.copy_(loaded[name])
            for tensor, value in beside:
                tensor.copy_(value)
    random = {_module(name) for name in asked if name not in computed}
    return {name for name in computed if _module(name) not in random}


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _named_tensors(model: PreTrainedModel) -> Iterable[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _paths(name: str, is_custom_code: bool) -> list[str]:
    """The module that holds a weight, and those around it, which may fill it as well (DistilBERT's sinusoids)."""
    parts = name.split(".")[:-1]
    paths = [".".join(parts[:length]) for length in range(len(parts), -1, -1)]
    return paths[:1] if is_custom_code else paths


def _fill_at_random(tensor: torch.Tensor) -> None:
    """Fill memory with different values, so that a weight without an initial value is not taken for computed."""
    if tensor.is_floating_point() or tensor.is_complex():
        tensor.normal_()
    else:
        tensor.random_(0, 2)
