"""Which mesh this home belongs to: founding one, joining one, coming back to one.

The file `mesh` in the home names the mesh and the members that were known last, so that a node that starts has someone
to call before its copy of the ledger says anything. It is a hint for dialling, never an authority.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from consensus.records import KeyGeneration, Member
from daemon.home import Home, write_atomically
from mesh.errors import DamagedError, ProtocolError, RefusedError
from mesh.names import MeshId, NodeId
from mesh.trust import TrustedPeer
from mesh.versioned import Codec, Limits

WELCOME = Codec(Limits(total_bytes_max=16 * 1024 * 1024, bytes_max=1024 * 1024))


@WELCOME.message("daemon.welcome")
@dataclass(frozen=True, slots=True)
class Welcome:
    """What a joiner is told: which mesh, under which name, whom to call, and the keys sealed to it."""

    mesh_id: MeshId
    epoch: int
    index: int  # of the admission
    name: str
    members: tuple[Member, ...]
    keys: tuple[KeyGeneration, ...]


MESH_FILE = Codec(Limits(total_bytes_max=16 * 1024 * 1024))
CHECKSUM_BYTES = 16


@MESH_FILE.message("daemon.mesh-file")
@dataclass(frozen=True, slots=True)
class MeshFile:
    """What a restart begins with."""

    mesh_id: MeshId
    epoch: int
    founder: bool  # this node made the mesh; true only until its ledger's first entry is applied
    name: str
    members: tuple[Member, ...]
    keys: tuple[KeyGeneration, ...]  # only what is sealed to this node


def load_mesh_file(home: Home) -> MeshFile | None:
    """What this home belongs to, or None for a fresh one.

    Raises:
        DamagedError: The file is not what was written.
    """
    try:
        stored = home.mesh.read_bytes()
    except FileNotFoundError:
        return None
    content = stored[:-CHECKSUM_BYTES]
    damage = "" if _checksum(content) == stored[len(content) :] else "its checksum does not fit"
    if not damage:
        try:
            return MESH_FILE.decode(content, MeshFile)
        except ProtocolError as error:
            damage = str(error)
    raise DamagedError(
        f"{home.mesh} is damaged",
        why=damage,
        hint="remove it, and join this home again with a new token: it stays the node that it is",
        code="damaged.mesh",
    )


def others_in(home: Home) -> bool:
    """Whether another node is known that everything could be learnt from; a file that cannot be read knows none."""
    try:
        known = load_mesh_file(home)
    except DamagedError:
        return False
    return known is not None and len(known.members) > 1


def save_mesh_file(path: Path, content: MeshFile) -> None:
    encoded = MESH_FILE.encode(content)
    write_atomically(path, encoded + _checksum(encoded))


def _checksum(content: bytes) -> bytes:
    return blake2b(content, digest_size=CHECKSUM_BYTES).digest()


def from_welcome(welcome: bytes) -> MeshFile:
    """What a joiner was told, as what it keeps."""
    told = WELCOME.decode(welcome, Welcome)
    return MeshFile(told.mesh_id, told.epoch, False, told.name, told.members, told.keys)


def own_shares(keys: Iterable[KeyGeneration], node_id: NodeId) -> tuple[KeyGeneration, ...]:
    """Each generation with this node's share alone."""
    return tuple(
        replace(key, shares=mine)
        for key in sorted(keys, key=lambda key: (key.purpose, key.generation))
        if (mine := tuple(share for share in key.shares if share.node_id == node_id))
    )


def check_token(known: MeshFile, mesh_id: MeshId) -> None:
    """A home joins once; the same mesh again is a resume, another one is refused."""
    if known.mesh_id != mesh_id:
        raise RefusedError(
            "this home belongs to another mesh",
            why=f"it is in {known.mesh_id[:8]}, the token is for {mesh_id[:8]}",
            hint="choose another --home",
            code="home.foreign",
        )


def trusted_peers(members: dict[NodeId, Member], voters: frozenset[NodeId]) -> list[TrustedPeer]:
    """The members of the ledger as links see them."""
    return [
        TrustedPeer(
            node_id=member.node_id,
            public_key=member.public_key,
            certificate=member.certificate,
            name=member.name,
            trusted=member.trusted,
            voter=member.node_id in voters,
            boot_nonce=member.boot.nonce,
        )
        for member in members.values()
    ]
