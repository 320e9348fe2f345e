"""A node's key file under a passphrase (rule T7): what lies on the disk is sealed, what TLS reads lies in memory alone.

A key without one stays as it is, in clear under mode 0600, because a node has to start again unattended. With one, the
file is a salt, the cost of Argon2id, and the PEM text sealed by XSalsa20-Poly1305, in base64 under a heading.

OpenSSL takes a certificate and its key from a path alone. So the opened text lives in an anonymous file in memory
(memfd), whose path in /proc only this process can open; it has no name, and no disk ever sees it.
"""

from __future__ import annotations

import base64
import os
import secrets
import textwrap
from pathlib import Path

from mesh.errors import DamagedError, RefusedError

BEGIN = "-----BEGIN FREECLOUD SEALED KEY-----"
END = "-----END FREECLOUD SEALED KEY-----"
_MAGIC = b"fck1"
SALT_BYTES = 16
OPERATIONS = 3
MEMORY_BYTES = 32 * 1024 * 1024
"""libsodium's Argon2id at 32 MiB and three passes: 0.1 s at each start, and no more memory than a small host has."""

PASSPHRASE_BYTES_MAX = 4096


def is_sealed(text: str) -> bool:
    return text.startswith(BEGIN)


def seal(text: str, passphrase: bytes) -> str:
    """The key file's text under this passphrase."""
    from nacl.secret import SecretBox

    salt = secrets.token_bytes(SALT_BYTES)
    sealed = SecretBox(_key(passphrase, salt)).encrypt(text.encode("ascii"))
    body = base64.b64encode(_MAGIC + salt + bytes(sealed)).decode()
    return "\n".join([BEGIN, *textwrap.wrap(body, 64), END, ""])


def unseal(text: str, passphrase: bytes, path: Path) -> str:
    """The text that was sealed.

    Raises:
        RefusedError: It needs a passphrase, or another one.
        DamagedError: The file is not what was written.
    """
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    if not passphrase:
        raise RefusedError(
            f"{path} is under a passphrase",
            why="none was given",
            hint="set FREECLOUD_PASSPHRASE_FILE, or the systemd credential freecloud-passphrase",
            code="key.passphrase",
        )
    try:
        raw = base64.b64decode("".join(text.removeprefix(BEGIN).removesuffix(END + "\n").split()), validate=True)
    except ValueError as error:
        raise DamagedError(f"{path} is not a key file", why=str(error)) from error
    if not raw.startswith(_MAGIC):
        raise DamagedError(f"{path} is not a key file", why="it is of another form")
    salt, sealed = raw[len(_MAGIC) :][:SALT_BYTES], raw[len(_MAGIC) + SALT_BYTES :]
    try:
        return SecretBox(_key(passphrase, salt)).decrypt(sealed).decode("ascii")
    except (CryptoError, ValueError, TypeError) as error:
        raise RefusedError(
            f"{path} does not open",
            why="the passphrase is another one, or the file was changed",
            hint="look at FREECLOUD_PASSPHRASE_FILE, or restore the file from a backup",
            code="key.passphrase",
        ) from error


def in_memory(text: str) -> Path:
    """A path to this text that only this process can open, for as long as it lives."""
    descriptor = os.memfd_create("freecloud-key")
    rest = text.encode("ascii")
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    return Path(f"/proc/self/fd/{descriptor}")


def _key(passphrase: bytes, salt: bytes) -> bytes:
    from nacl.pwhash import argon2id

    return argon2id.kdf(32, passphrase, salt, opslimit=OPERATIONS, memlimit=MEMORY_BYTES)
