"""What goes into a model and comes out of it as named tensors, for protocols that speak in those."""

from __future__ import annotations

import msgspec


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    """A tensor as the Open Inference Protocol describes it: -1 stands for a size that varies.

    The first dimension counts instances. Datatypes are BOOL, UINT8 … UINT64, INT8 … INT64, FP16, FP32, FP64, BYTES.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


class Signature(msgspec.Struct, frozen=True, array_like=True):
    """The tensors of a model; one without any takes and gives whatever its own code does.

    Attributes:
        instances: the inputs that make an instance together, most usual first. One alone is the instance, several are
            the fields of an object.
        outputs: the answer first. Others are a field of the answer's objects, or `attention_mask`, which tells where
            arrays of several lengths end.
    """

    inputs: tuple[TensorSpec, ...] = ()
    instances: tuple[tuple[str, ...], ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


TEXT = TensorSpec("text", "BYTES", (-1,))
INPUT_IDS = TensorSpec("input_ids", "INT64", (-1, -1))

#: As KServe's server names what a model answers; here, where no other datatype is natural, one JSON document each.
ANSWER = TensorSpec("output-0", "BYTES", (-1,))
ATTENTION_MASK = TensorSpec("attention_mask", "INT64", (-1, -1))

#: From a text to whatever the task answers.
TEXT_TO_JSON = Signature((TEXT,), ((TEXT.name,),), (ANSWER,))
#: The same, for tasks that read tokens as well.
TEXT_OR_TOKENS_TO_JSON = Signature((TEXT, INPUT_IDS), ((TEXT.name,), (INPUT_IDS.name,)), (ANSWER,))
