"""App secrets as this node may read them: opened for replicas, sealed anew when the data key was rotated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from consensus.ledger import Ledger
from consensus.records import SecretRecord
from daemon.keys import DATA, KeyHolder, open_secret, seal_secret
from mesh.errors import MissingError


class SealedSecrets:
    """Values never leave memory here but into a replica's own folder, by the runner."""

    def __init__(self, ledger: Ledger, keys: KeyHolder) -> None:
        self._ledger = ledger
        self._keys = keys

    async def open(self, names: tuple[str, ...]) -> Mapping[str, str]:
        """The values of these secrets.

        Raises:
            MissingError: One is not set; it is named.
        """
        values = {}
        for name in names:
            record = self._ledger.state.secrets.get(name)
            if record is None:
                raise MissingError(f"the secret {name} is not set", hint=f"freecloud secrets set {name}")
            values[name] = self._plain(record).decode()
        return values

    def reseal(self, record: SecretRecord) -> SecretRecord | None:
        """The same secret under the newest data key; None if this node lacks a key for it."""
        ring = dict(self._keys.ring(self._ledger.state.keys, DATA))
        if record.generation not in ring:
            return None
        generation, key = self._keys.newest(self._ledger.state.keys, DATA)
        return replace(record, generation=generation, ciphertext=seal_secret(key, record.name, self._plain(record)))

    def _plain(self, record: SecretRecord) -> bytes:
        ring = dict(self._keys.ring(self._ledger.state.keys, DATA))
        if record.generation not in ring:
            raise MissingError(f"this node has no key for the secret {record.name} yet")
        return open_secret(ring[record.generation], record.name, record.ciphertext)
