"""Where training workers meet: torch's store, on the loopback where all of them are on this machine.

torch's own listens on all addresses, and does what it is told by whoever connects.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

_ADDRESS = "127.0.0.1"
_stores: list[Any] = []  # that this process serves: of the group that it is in, and of those it was in before


@dataclass
class LoopbackTorchConfig(TorchConfig):
    """A process group whose store answers on the loopback alone."""

    @property
    def backend_cls(self) -> Any:
        return _LoopbackBackend


class _LoopbackBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Start the store in the first worker's process, and let all join the group as its clients."""
        port = worker_group.execute_single(0, _serve, backend_config.timeout_s)
        worker_group.execute(_point_to, port)
        worker_group.execute(_set_torch_distributed_env_vars)
        joining = [
            worker_group.execute_single_async(
                number,
                _setup_torch_process_group,
                backend=backend_config.backend,
                world_rank=number,
                world_size=len(worker_group),
                init_method="env://",
                timeout_s=backend_config.timeout_s,
            )
            for number in range(len(worker_group))
        ]
        ray.get(joining)


def _serve(timeout_s: float) -> int:
    """Serve a store on the loopback; returns its port."""
    listener = socket.create_server((_ADDRESS, 0))
    port = listener.getsockname()[1]
    store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        _ADDRESS,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_s),
        master_listen_fd=listener.detach(),
    )
    _stores.append(store)
    return port


def _point_to(port: int) -> None:
    """Set what torch reads when it joins a group: the store is there already."""
    os.environ.update(MASTER_ADDR=_ADDRESS, MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
