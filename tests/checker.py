"""What checks annotations in the tests: beartype, for which an int is a float, as for type checkers."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
