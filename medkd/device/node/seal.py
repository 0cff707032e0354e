"""Seal: the digest of a DICOM file in its preamble, which PS3.10 leaves to whoever writes it.

pydicom reads what is left of a file that was cut off, and would have it sent.
"""

import hashlib

PREAMBLE = 128


def sealed(content: bytes) -> bytes:
    """Return a DICOM file with the SHA-256 of what follows its preamble in it."""
    body = content[PREAMBLE:]
    return hashlib.sha256(body).digest().ljust(PREAMBLE, b"\0") + body


def is_intact(content: bytes) -> bool:
    """Whether a sealed file is as it was written.

    Example:
        >>> file = sealed(bytes(128) + b"DICM and more")
        >>> is_intact(file), is_intact(file[:-1])
        (True, False)
    """
    return content == sealed(content)
