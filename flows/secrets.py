"""Keeping user names and passwords of addresses out of all that is written."""

import re
from urllib.parse import urlsplit

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@'\"]*@")
"""User and password of an address, wherever in a text it stands."""


def without_secrets(text: str) -> str:
    """Return a text in which no address has a user or a password, and none a query, where tokens travel.

    Parameters
    ----------
    text
        An address, or a message that holds addresses.
    """
    plain = _CREDENTIALS.sub("", text)
    parts = urlsplit(plain) if re.fullmatch(r"\S+://\S*", plain) else None
    return parts._replace(query="", fragment="").geturl() if parts is not None and parts.query else plain
