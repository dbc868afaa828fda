"""Processes of one training run do the same steps with the same gradients."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch

from vivant.export.train.face import agreed, processes, reduce_gradients

WORKER = """
import torch
from vivant.export.train.face import agreed, processes, reduce_gradients
world, rank, device = processes("cpu")
weights = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))]
weights[1].grad = torch.full((3,), 1.0 + rank)
reduce_gradients(weights, world)
print(world, round(agreed(0.25 + 0.5 * rank, world, device), 6), weights[1].grad.tolist())
torch.distributed.destroy_process_group()
"""


def test_processes_agree_on_gradients_and_on_the_end() -> None:
    """Two processes, started as torchrun starts them, end up with the mean of their gradients, and
    with the progress of the one whose clock is behind: neither waits for another that has gone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**shared, "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=120)[0].strip() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert said == ["2 0.25 [1.5, 1.5, 1.5]"] * 2


def test_one_process_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun nothing is waited for."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world, rank, device = processes("cpu")
    assert (world, rank) == (1, 0)
    assert agreed(0.4, world, device) == 0.4
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, 2.0])
    reduce_gradients([weight], world)
    assert weight.grad.tolist() == [1.0, 2.0]
