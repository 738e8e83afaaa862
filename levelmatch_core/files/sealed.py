"""Texts that are kept under a key, with a digest of both: what was altered, or lies under another key, is noticed."""

import hashlib

_DIGITS = 64


def seal(key: str, text: str) -> str:
    """Return a text as it is kept: the digest (sha256, hex) of key and text, and the text."""
    return _digest(key, text) + text


def unseal(key: str, kept: str) -> str:
    """Return the text that :func:`seal` was given.

    Raises
    ------
    ValueError
        If it was altered, kept under another key, or never sealed.
    """
    digest, text = kept[:_DIGITS], kept[_DIGITS:]
    if digest != _digest(key, text):
        message = "what is kept under this key is not what was put there"
        raise ValueError(message)
    return text


def _digest(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()
