"""How the bytes of a file are packed, and whether they are those that were written."""
