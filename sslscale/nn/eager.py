"""Parts of a step that torch.compile leaves as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def eager(function: F) -> F:
    """Never compile a function: it asks the host, writes a memory, or takes gradients inside a forward pass."""
    disable: Any = torch.compiler.disable
    return disable(function)
