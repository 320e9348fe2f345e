"""What an app is: its manifest, every key with its default, and how it stands in a release.

`parse` reads what the user wrote (`app.yaml`); `encode_manifest` and `decode_manifest` are the release's own form,
versioned, so that a release deployed by an older program means the same under a newer one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from mesh.versioned import Codec

MANIFEST = Codec()
"""Its limits (64 KiB of text, 10,000 items) are far above what `parse` lets through."""

MIB = 1024 * 1024

Pairs = tuple[tuple[str, str], ...]
"""Sorted (key, value) pairs."""


class Spread(Enum):
    """What two replicas of an app should not share, as long as there is a choice."""

    ZONE = "zone"
    NODE = "node"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Resources:
    """What a replica is promised, and what it is held to."""

    cpu: float = 0.25  # of a core
    memory_bytes: int = 128 * MIB
    disk_bytes: int = 512 * MIB


@dataclass(frozen=True, slots=True)
class Health:
    """How a replica shows that it serves; without a path a TCP connection to its port is enough."""

    path: str = ""
    interval_s: float = 2.0
    timeout_s: float = 1.0
    healthy_after: int = 1  # good answers in a row
    unhealthy_after: int = 3  # bad ones in a row


@dataclass(frozen=True, slots=True)
class Rollout:
    """How one release takes over from another.

    `deadline_s` is the longest time without progress: it begins anew with every replica that becomes healthy, so
    that a large app rolls out in peace and a broken one is noticed as fast as a small one.
    """

    max_unavailable: int = 0
    max_surge: int = 1
    deadline_s: float = 60.0
    rollback: bool = True


@dataclass(frozen=True, slots=True)
class Restart:
    backoff_min_s: float = 1.0
    backoff_max_s: float = 60.0
    give_up_after: int = 0  # restarts in a row; 0: never


@MANIFEST.message("app.manifest")
@dataclass(frozen=True, slots=True)
class Manifest:
    name: str
    command: str  # for `sh -c`; $PORT is set
    source: str = "."  # relative to the manifest; matters only to whoever packs it
    runtime: str = "process"
    install: str = ""  # path of a requirements file within the source; "": nothing to install
    env: Pairs = ()
    secrets: tuple[str, ...] = ()
    replicas: int = 1
    resources: Resources = Resources()
    health: Health = Health()
    constraints: Pairs = ()  # labels that a node must carry
    spread: Spread = Spread.ZONE
    rollout: Rollout = Rollout()
    restart: Restart = Restart()
    exclusive: bool = False  # never runs twice, at the price of a pause whenever it moves (rule A1)
    untrusted: bool = False  # may run on nodes that are not trusted (rule T4)


def parse(text: str) -> Manifest:
    """The manifest that a user wrote.

    Raises:
        ManifestError: With the line and the column of the first mistake.
    """
    from scheduler.manifest_reader import read_manifest  # PyYAML costs 2 MiB and only deploys need it

    return read_manifest(text)


def encode_manifest(manifest: Manifest) -> bytes:
    """The form in which a release carries it."""
    return MANIFEST.encode(manifest)


@lru_cache(maxsize=1024)  # every look at the cluster decodes every release; releases never change
def decode_manifest(encoded: bytes) -> Manifest:
    """What `encode_manifest` wrote.

    Raises:
        ProtocolError: It is no manifest.
        UpgradeNeeded: A newer program deployed this release.
    """
    return MANIFEST.decode(encoded, Manifest)
