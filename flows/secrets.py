"""Removal of user names and passwords from addresses in all output."""

import re
from urllib.parse import urlsplit

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@'\"]*@")
"""User and password of an address, anywhere in a text."""


def without_secrets(text: str) -> str:
    """Return a text in which no address contains a user or a password; a single address also loses its query.

    Parameters
    ----------
    text
        An address, or a message that contains addresses.
    """
    plain = _CREDENTIALS.sub("", text)
    parts = urlsplit(plain) if re.fullmatch(r"\S+://\S*", plain) else None
    return parts._replace(query="", fragment="").geturl() if parts is not None and parts.query else plain
