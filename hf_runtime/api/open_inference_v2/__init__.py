"""The Open Inference Protocol, KServe's V2 data plane: models as functions from tensors to tensors.

Sources: https://github.com/kserve/open-inference-protocol and, for binary tensor data and the generate extension,
https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""
