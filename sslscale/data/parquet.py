"""Tables on disk: whole or absent, with a checksum in each page that is verified when it is read."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sslscale.errors import DataError, ResourceError
from sslscale.storage import jsonio, sums

T = TypeVar("T")


def write(file: Path, table: Any) -> None:
    """Write a pyarrow table in one rename; raises ResourceError on a full disk."""
    import pyarrow.parquet as parquet

    temporary = file.with_name(f"{file.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        parquet.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        temporary.replace(file)
        jsonio.fsync_dir(file.parent)
    except OSError as error:
        raise ResourceError(f"{file}: cannot be written: {error}; make room and run again") from error
    finally:
        temporary.unlink(missing_ok=True)


def read(file: Path, columns: Sequence[str] | None = None) -> Any:
    """Read a table, or some of its columns; raises DataError if it has changed since it was written."""
    import pyarrow.parquet as parquet

    wanted = None if columns is None else list(columns)
    return _checked(file, lambda: parquet.read_table(file, columns=wanted, page_checksum_verification=True))


def names(file: Path) -> list[str]:
    """The columns of a table; raises DataError if it has changed since it was written."""
    import pyarrow.parquet as parquet

    return _checked(file, lambda: parquet.read_schema(file).names)


def _checked(file: Path, read: Callable[[], T]) -> T:
    import pyarrow as pa

    try:
        sums.checked(file)
        return read()
    except (OSError, pa.ArrowException) as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{file}: an unreadable table ({text}); remove it and run again to make it anew") from None
