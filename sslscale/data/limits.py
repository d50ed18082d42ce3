"""How many images of a source may be unusable."""

from __future__ import annotations

from collections.abc import Sequence

from sslscale.errors import DataError

MAX_BAD_FRACTION = 0.01
SKIPPED = "skipped.txt"  # beside the splits: a line for each image that was left out
_LISTED = 200  # bad images that an error names


def require_few_bad(on_bad_sample: str, bad: Sequence[str], total: int) -> None:
    """Raise DataError, naming all `bad` images and what to do, if there are more than may be: with `skip` 1 %."""
    allowed = 0 if on_bad_sample == "error" else max(int(MAX_BAD_FRACTION * total), 1)
    if len(bad) <= allowed:
        return
    lines = "\n".join(f"  {line}" for line in bad[:_LISTED])
    more = f"\n  ... and {len(bad) - _LISTED:,} more" if len(bad) > _LISTED else ""
    if on_bad_sample == "error":
        advice = "mend or remove them, or leave them out by --on-bad-sample skip (data.on_bad_sample: skip)"
    else:
        advice = "on_bad_sample: skip leaves out 1 % at most"
    raise DataError(f"{len(bad):,} of {total:,} images cannot be used; {advice}:\n{lines}{more}")
