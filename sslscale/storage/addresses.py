"""Passwords in addresses (scheme://user:password@host/path) are kept out of everything that is written."""

from __future__ import annotations

import re
from urllib.parse import unquote

ADVICE = (
    "an address may not hold a password or token: give it in the store's own environment variables, or in fsspec's, "
    "such as FSSPEC_SFTP_PASSWORD"
)

# everything between the scheme and the last @ before the path, as urllib reads it
_USER = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<user>[^/\s?#]*)@")


def split(address: str) -> tuple[str, str, str] | None:
    """An address without its user and password, and the two; None if it has no password."""
    found = _USER.match(address)
    if found is None or ":" not in found["user"]:
        return None
    user, _, password = found["user"].partition(":")
    return f"{found['scheme']}://{address[found.end() :]}", unquote(user), unquote(password)


def masked(text: str) -> str:
    """A text with *** in place of the user and password of each address in it.

    The user of a web address is a secret without a password too: it may be a token. abfs://container@host is none.
    """

    def mask(found: re.Match[str]) -> str:
        secret = ":" in found["user"] or found["scheme"].lower() in ("http", "https")
        return f"{found['scheme']}://***@" if secret else found[0]

    return _USER.sub(mask, text)


def has_secret(text: str) -> bool:
    """Whether there is something to mask."""
    return masked(text) != text
