"""One home, one lock, and the lives of the node in it: usually one, more when its memory had to be moved aside."""

from __future__ import annotations

import os
from collections.abc import Iterator

from consensus.disk import is_disk_failure
from daemon.api.clock import wall_ms
from daemon.config import Config
from daemon.home import Home, HomeLock
from daemon.listeners import open_listeners
from daemon.membership import others_in
from daemon.node import Node
from daemon.ready import Ready, say
from daemon.standing import StartOver, aside_hint, check_not_removed, keep_in_mind, move_aside
from mesh.errors import DamagedError, FencedError, FreecloudError

MEMORY_DAMAGED = frozenset({"damaged.log", "damaged.snapshot", "damaged.boot"})

LIVES_MAX = 5
"""Whoever learns anew may learn from a peer that was left behind as well, and find out with it; not for ever."""


async def run_node(config: Config) -> None:
    """Run this node until it is told to stop.

    Raises:
        FreecloudError: Why it could not start, or had to stop.
    """
    os.umask(0o077)
    home = Home(config.home)
    home.prepare()
    lock = HomeLock.take(home)
    ready = Ready(config.ready_descriptor)
    try:
        check_not_removed(home)
        await _live_and_learn(config, home, ready)
    except DamagedError as error:
        if error.stable_code not in MEMORY_DAMAGED:
            raise
        hint = aside_hint(home, has_others=others_in(home))
        raise DamagedError(error.what, why=error.why, hint=hint, code=error.stable_code) from error
    except FencedError as error:
        keep_in_mind(home, error)
        raise
    finally:
        lock.release()


async def _live_and_learn(config: Config, home: Home, ready: Ready) -> None:
    """One life after the other, with the story of why the first was not the last.

    A memory that the ledger refuses minutes after it was born is not old: there is another. One whose history turns
    out to be given up may be young: it was copied from somebody who did not know that yet.
    """
    story = ""
    for number in range(LIVES_MAX):
        try:
            return await _live(config, home, ready, story)
        except StartOver as error:
            if story and not error.is_given_up:
                break
            moved = move_aside(home, f"{wall_ms()}.{number}")
            told = f"{error}: what this home remembered was moved to {moved}, and everything is learnt anew"
            say(told)
            story = story or told  # what was learnt since, and given up again, held nothing of its own
    raise FencedError(
        "the mesh has refused this home's memory again and again",
        why="another copy of this home comes and goes",
        hint="one home, one machine: remove the copy, then start this one again",
        code="fenced.clone",
    )


async def _live(config: Config, home: Home, ready: Ready, story: str = "") -> None:
    """One start. What ended it comes out of its nurseries as one error."""
    listeners = open_listeners(config, home)
    try:
        await Node(config, home, listeners, ready, story).run()
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        for leaf in leaves:
            if isinstance(leaf, StartOver):
                raise leaf from group
            if isinstance(leaf, FencedError) and leaf.stable_code == "fenced.diverged":
                raise StartOver(f"{leaf.what} ({leaf.why})", is_given_up=True) from group
        for leaf in leaves:
            if isinstance(leaf, FreecloudError) or is_disk_failure(leaf):
                raise leaf from group
        raise
    finally:
        listeners.close()


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
