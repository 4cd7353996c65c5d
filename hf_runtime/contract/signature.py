"""Inputs and outputs of a model as named tensors, for protocols that use tensors."""

from __future__ import annotations

import msgspec


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    """Description of a tensor in the Open Inference Protocol.

    The first dimension counts instances. A size of -1 varies. Datatypes are BOOL, UINT8 … UINT64, INT8 … INT64, FP16,
    FP32, FP64, BYTES.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


class Signature(msgspec.Struct, frozen=True, array_like=True):
    """Input and output tensors of a model.

    A signature without tensors means that the model's own code defines its inputs and outputs.

    Attributes:
        instances: names of the inputs that form an instance, with the most common combination first. A single input is
            the instance itself. Several inputs are the fields of an object.
        outputs: the answer first. Other outputs are a field of the answer's objects, or `attention_mask`, which marks
            the end of arrays of different lengths.
    """

    inputs: tuple[TensorSpec, ...] = ()
    instances: tuple[tuple[str, ...], ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


TEXT = TensorSpec("text", "BYTES", (-1,))
INPUT_IDS = TensorSpec("input_ids", "INT64", (-1, -1))

#: KServe's name for the output of a model. If no other datatype fits, each element is a JSON document.
ANSWER = TensorSpec("output-0", "BYTES", (-1,))
ATTENTION_MASK = TensorSpec("attention_mask", "INT64", (-1, -1))

#: Signature of tasks that accept a text and answer JSON.
TEXT_TO_JSON = Signature((TEXT,), ((TEXT.name,),), (ANSWER,))
#: Signature of tasks that also accept token ids.
TEXT_OR_TOKENS_TO_JSON = Signature((TEXT, INPUT_IDS), ((TEXT.name,), (INPUT_IDS.name,)), (ANSWER,))
