"""KServe's V2 data plane: the Open Inference Protocol.

Sources: https://github.com/kserve/open-inference-protocol and, for binary tensor data and the generate extension,
https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""
