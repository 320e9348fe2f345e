"""The joiner's side of admission: prove the token, learn the mesh, keep what a restart needs."""

from __future__ import annotations

import trio

from consensus.records import BootMark
from daemon.config import Config
from daemon.home import Home
from daemon.membership import MeshFile, check_token, from_welcome, load_mesh_file, save_mesh_file
from daemon.ready import say
from daemon.standing import removed
from daemon.version import FEATURE_LEVEL
from mesh.admission import JoinProfile, join
from mesh.errors import DamagedError, FreecloudError, MissingError
from mesh.identity import RESTORE, Identity, create_identity, load_identity
from mesh.invite import InviteToken, decode_token

JOIN_TIMEOUT_S = 30.0
"""All members of the token together; one admission takes well under a second."""

LOOK_S = 5.0
"""For a member that comes back: its mesh may be down, and then it starts without it."""


async def belong(
    config: Config, home: Home, identity: Identity, boot: BootMark, mesh_address: str, *, remembers: bool
) -> MeshFile | None:
    """The mesh that this home belongs to, joining one if a token was given.

    Args:
        config: May hold a token.
        home: Holds the mesh file.
        identity: Of this node.
        boot: This start.
        mesh_address: Where it listens.
        remembers: The log holds something: a damaged mesh file is written anew from what it says.

    Returns:
        None if it is to found its own, or to look into its log.

    Raises:
        DamagedError: The mesh file is damaged, and there is no log to make it anew from.
        InviteRefused: The token admits nobody (any more).
        RefusedError: The home belongs to another mesh.
        UnreachableError, NoQuorumError: Not now; the same token may be tried again.
    """
    try:
        known = load_mesh_file(home)
    except DamagedError as error:
        if not remembers:
            raise
        say(f"{error.what}: it is made anew from the log")
        known = None
    if not config.join_token:
        return known
    token = decode_token(config.join_token)
    profile = profile_of(config, identity, boot, mesh_address)
    if known is not None:
        check_token(known, token.mesh_id)
        await _ask_whether_removed(token, identity, profile)
        return known
    welcome = await join(token, identity, profile, deadline=trio.current_time() + JOIN_TIMEOUT_S)
    joined = from_welcome(welcome)
    save_mesh_file(home.mesh, joined)
    return joined


async def _ask_whether_removed(token: InviteToken, identity: Identity, profile: JoinProfile) -> None:
    """Whoever was removed while it was down hears of it here alone, for links are closed to it.

    A member hears "a member already", and spends no use; whatever else the answer is, it goes on as the member it was.

    Raises:
        FencedError: This node was removed.
    """
    try:
        await join(token, identity, profile, deadline=trio.current_time() + LOOK_S)
    except FreecloudError as error:
        if error.stable_code == "invite.removed":
            raise removed() from error


def profile_of(config: Config, identity: Identity, boot: BootMark, mesh_address: str) -> JoinProfile:
    """What a joiner says of itself."""
    return JoinProfile(
        name=config.name,
        certificate=identity.certificate,
        public_key=identity.public_key,
        zone=config.zone,
        provider=config.provider,
        labels=config.labels,
        addresses=(config.advertise or mesh_address,),
        may_vote=True,
        store_id=boot.store_id,
        boot_counter=boot.counter,
        boot_nonce=boot.nonce,
        feature_level=FEATURE_LEVEL,
    )


def identity_of(home: Home, passphrase: bytes) -> Identity:
    """The identity that lies in this home; the first start makes it."""
    try:
        return load_identity(home.identity, passphrase)
    except MissingError:
        if home.mesh.exists() or any(home.log.iterdir()):
            # What lies here is sealed under that key; a new one would make it a stranger in its own home.
            raise DamagedError(f"the key of this node is gone from {home.identity}", hint=RESTORE) from None
        return create_identity(home.identity, passphrase)
