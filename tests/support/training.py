"""What other processes run in the tests of PyTorch's data loaders and of its data parallelism: quick to import."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

__all__ = ["Projected", "network", "train_in_parallel"]


class Projected(torch.utils.data.Dataset[Any]):
    """Rows that are put through a layer where they are loaded, by whatever process does that."""

    def __init__(self, layer: Any, rows: torch.Tensor) -> None:
        self.layer, self.rows = layer, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        (x,) = self.layer(self.rows[index])
        return x, os.getpid()


def network(layer: Any) -> torch.nn.Module:
    """A linear map with fixed weights, and the layer behind it."""

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.layer = torch.nn.Linear(4, 6), layer
            with torch.no_grad():
                self.linear.weight.copy_(torch.sin(torch.arange(24.0)).reshape(6, 4))
                self.linear.bias.zero_()

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            x: torch.Tensor = self.layer(self.linear(rows))[0]
            return x

    return Network()


def train_in_parallel(rank: int, folder: str, layer: Any, rows: torch.Tensor) -> None:
    """One of two processes: a step on its half of the rows, whose averaged gradient it writes to a file."""
    torch.set_num_threads(1)
    place = f"file://{Path(folder) / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(network(layer))
    (model(rows[rank::2]) ** 2).sum().backward()
    gradients = [p.grad for p in model.module.parameters()]
    torch.save(gradients, Path(folder) / f"gradients-{rank}.pt")
    torch.distributed.destroy_process_group()
