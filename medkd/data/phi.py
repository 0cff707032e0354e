"""PHI: what stands for a patient outside the study folder.

Case and patient ids may name a person, so nothing that leaves the study folder carries them. A
keyed hash stands in: stable within a study, meaningless without the study's salt.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

from medkd.study import write_atomic


def study_salt(folder: Path) -> bytes:
    """Return the study's salt, drawn on first use and kept in its folder."""
    path = folder / ".salt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, secrets.token_hex(16))
    return path.read_bytes()


def key(identifier: str, *, salt: bytes, kind: str = "case") -> str:
    """Return e.g. ``case-3f9a21c45b0e77d1`` for an id; 64 bits, so that no two of a study meet.

    Example:
        >>> key("DOE^JANE", salt=b"s") == key("DOE^JANE", salt=b"s")
        True
        >>> key("DOE^JANE", salt=b"s") == key("DOE^JANE", salt=b"t")
        False
    """
    named = f"{kind}/{identifier}".encode()
    return f"{kind}-{hmac.new(salt, named, hashlib.sha256).hexdigest()[:16]}"
