"""Array types with shapes for annotations: jaxtyping's, or stand-ins where it is not installed. Tests enforce them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float16, Int, UInt, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Float16, Int, UInt, UInt8
    except ImportError:

        class _Unchecked:
            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Float16 = Int = UInt = UInt8 = _Unchecked

__all__ = ["Bool", "Float", "Float16", "Int", "UInt", "UInt8"]
