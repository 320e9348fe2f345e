"""Telling whoever started this process that the node serves: once, however many lives the node has."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from mesh.names import NodeId


class Ready:
    """The one line that `freecloud up --detach` waits for; in the foreground, the addresses for a person.

    Args:
        descriptor: The pipe that the starter reads, ours from now on; None in the foreground.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._is_detached = descriptor is not None

    def tell(self, node_id: NodeId, addresses: Mapping[str, str], notices: Sequence[str]) -> None:
        """This life of the node serves. The starter hears of the first one, the log of those after it."""
        if self._descriptor is not None:
            document = {"addresses": addresses, "id": node_id, "notices": list(notices)}
            with suppress(BrokenPipeError):  # whoever started it did not wait
                os.write(self._descriptor, json.dumps(document).encode() + b"\n")
            os.close(self._descriptor)
            # Its number may be any file's from here on.
            self._descriptor = None
            return
        for notice in notices:
            say(notice)
        if not self._is_detached:
            for name, address in addresses.items():
                say(f"{name.ljust(8)} {address}")
        say("ready")


def say(text: str) -> None:
    """One line for a person."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
