"""Servers that are measured beside ours, each in an environment of its own."""

from __future__ import annotations

from benchmarks.peers.fastapi_pipeline import FastAPIPipeline
from benchmarks.peers.infinity import Infinity
from benchmarks.peers.kserve import HuggingFaceServer
from benchmarks.peers.litserve import LitServe
from benchmarks.peers.mlserver import MLServer
from benchmarks.peers.peer import Peer, PeerUnavailable
from benchmarks.peers.transformers_serve import TransformersServe
from benchmarks.peers.vllm import VLLM

PEERS: tuple[Peer, ...] = (
    FastAPIPipeline(),
    LitServe(),
    MLServer(),
    Infinity(),
    TransformersServe(),
    VLLM(),
    HuggingFaceServer(),
)

__all__ = ["PEERS", "Peer", "PeerUnavailable"]
