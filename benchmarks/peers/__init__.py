"""Other servers that are compared with ours, each in an environment of its own."""

from __future__ import annotations

from benchmarks.peers.fastapi_pipeline import FastAPIPipeline
from benchmarks.peers.infinity import Infinity
from benchmarks.peers.litserve import LitServe
from benchmarks.peers.mlserver import MLServer
from benchmarks.peers.peer import Peer
from benchmarks.peers.transformers_serve import TransformersServe
from benchmarks.peers.vllm import VLLM

#: KServe's huggingfaceserver is missing, because PyPI has no package of its name.
PEERS: tuple[Peer, ...] = (
    FastAPIPipeline(),
    LitServe(),
    MLServer(),
    Infinity(),
    TransformersServe(),
    VLLM(),
)
