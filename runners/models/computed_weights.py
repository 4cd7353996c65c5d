"""Find weights that a checkpoint may lack because the model computes them itself."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

_FLAG = "_is_hf_initialized"
_SEEDS = (1, 2)


def find_computed_weights(model: PreTrainedModel, missing: Iterable[str]) -> set[str]:
    """Return names of missing weights whose initial value is not random (sinusoids, zeros).

    The missing weights are filled with random values and initialized by transformers' own functions, twice, with
    different seeds. A weight that gets its loaded value both times is computed. The other weights do not change.
    A computed weight in a module that also has a random one is left out: that module is missing as a whole.

    Args:
        model: as returned by `from_pretrained`.
        missing: names of weights and buffers, as reported by `from_pretrained`.
    """
    tensors = dict(_named_tensors(model))
    candidates = {name: tensors[name] for name in missing if name in tensors and not tensors[name].is_meta}
    if not candidates:
        return set()
    loaded = {name: tensor.detach().clone() for name, tensor in candidates.items()}
    candidate_ids = {id(tensor) for tensor in candidates.values()}
    initialized = {
        model.get_submodule(path) for name in candidates for path in _list_module_paths(name, model.is_custom_code())
    }
    # A model's own code may change the other tensors of these modules, even if their flag says initialized.
    saved = [
        (tensor, tensor.detach().clone())
        for module in initialized
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if model.is_custom_code() and id(tensor) not in candidate_ids and not tensor.is_meta
    ]
    for tensor in tensors.values():
        setattr(tensor, _FLAG, id(tensor) not in candidate_ids)
    computed = set(candidates)
    with torch.no_grad(), torch.random.fork_rng():
        try:
            for seed in _SEEDS:
                for module in model.modules():
                    setattr(module, _FLAG, module not in initialized)
                torch.manual_seed(seed)
                for tensor in candidates.values():
                    _fill_randomly(tensor)
                model.initialize_weights()  # type: ignore[no-untyped-call]
                computed = {name for name in computed if torch.equal(candidates[name], loaded[name])}
        except Exception:
            # A model's own code may fail to initialize again; then no weight is known to be computed.
            computed = set()
        finally:
            for name, tensor in candidates.items():
                tensor.copy_(loaded[name])
            for tensor, value in saved:
                tensor.copy_(value)
    random = {_module_path(name) for name in candidates if name not in computed}
    return {name for name in computed if _module_path(name) not in random}


def _module_path(name: str) -> str:
    return name.rpartition(".")[0]


def _named_tensors(model: PreTrainedModel) -> Iterable[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _list_module_paths(name: str, is_custom_code: bool) -> list[str]:
    """Return the paths of the modules that may initialize a weight, innermost first.

    An outer module may fill it too, such as DistilBERT's, which computes the sinusoids. A model's own code is only
    run for the module that holds the weight.
    """
    parts = name.split(".")[:-1]
    paths = [".".join(parts[:length]) for length in range(len(parts), -1, -1)]
    return paths[:1] if is_custom_code else paths


def _fill_randomly(tensor: torch.Tensor) -> None:
    """Fill a tensor with random values, so that an uninitialized one does not look computed."""
    if tensor.is_floating_point() or tensor.is_complex():
        tensor.normal_()
    else:
        tensor.random_(0, 2)
