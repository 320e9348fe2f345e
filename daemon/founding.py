"""Making a mesh: the first entry, with this node as its founder and the first generation of each mesh key."""

from __future__ import annotations

import secrets

from consensus.ledger_entries import CreateMesh
from consensus.records import BootMark, Member, MemberStatus, MeshRecord
from daemon.config import Config
from daemon.keys import DATA, GOSSIP, new_generation
from daemon.version import FEATURE_LEVEL
from mesh.identity import Identity
from mesh.names import MeshId, base32

FIRST_EPOCH = 1


def new_mesh_id() -> MeshId:
    return MeshId(base32(secrets.token_bytes(16)))


def founding_entry(
    mesh_id: MeshId, config: Config, identity: Identity, boot: BootMark, mesh_address: str, now_ms: int
) -> CreateMesh:
    """The entry that begins every ledger."""
    founder = Member(
        node_id=identity.node_id,
        name=config.name,
        public_key=identity.public_key,
        certificate=identity.certificate,
        trusted=True,
        may_invite=True,
        may_vote=True,
        zone=config.zone,
        provider=config.provider,
        labels=config.labels,
        addresses=(config.advertise or mesh_address,),
        status=MemberStatus.ACTIVE,
        boot=boot,
        joined_ms=now_ms,
        seen_alive=True,
        feature_level=FEATURE_LEVEL,
        away_until_ms=0,
        relearn=False,
    )
    members = {founder.node_id: founder}
    keys = tuple(new_generation(purpose, 1, members, now_ms) for purpose in (GOSSIP, DATA))
    return CreateMesh(MeshRecord(mesh_id, FIRST_EPOCH, FEATURE_LEVEL, now_ms), founder, keys)
