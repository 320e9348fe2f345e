"""`python -m daemon`: what `freecloud up` and `freecloud join` turn into. Parses the settings, runs the node, and turns
an error into one line and the exit status of its kind."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from consensus.disk import NoSpace, disk_failure, is_disk_failure
from daemon.api.problems import problem
from daemon.config import SETTINGS, Config, load_config
from mesh.errors import EXIT_STATUS, FreecloudError, UsageError

TOKEN_BYTES_MAX = 4096


def main(arguments: Sequence[str]) -> int:
    """Run the daemon until it is told to stop; returns the exit status."""
    ready: int | None = None
    try:
        flags = _flags(arguments)
        given = flags.pop("ready_descriptor", None)
        # A copy of our own: the node closes the given one when it is ready, and its number may then be any file's.
        ready = None if given is None else os.dup(int(given))
        token = _read_token(flags.pop("join_descriptor", None))
        config = load_config({**flags, "join_token": token, "ready_descriptor": given}, os.environ)
        _run(config)
        return 0
    except FreecloudError as error:
        return _end(error, ready)
    except OSError as error:
        if not is_disk_failure(error):
            raise
        return _end(disk_failure(error, "use", str(error.filename or "this home")), ready)


def _end(error: FreecloudError, ready: int | None) -> int:
    """Tell why it ends, to the log and to whoever waits; returns the exit status."""
    if isinstance(error, NoSpace):
        # A node that runs goes on by itself; this one does not.
        error = NoSpace(error.what, why=error.why, hint="free some space, then start it again")
    sys.stderr.write(f"freecloud: {error}\n")
    if ready is not None:
        # Whoever started it may have heard that it is ready, and gone.
        with suppress(BrokenPipeError):
            os.write(ready, json.dumps({"problem": problem(error)}).encode() + b"\n")
    return EXIT_STATUS[error.kind]


def _run(config: Config) -> None:
    import trio

    from daemon.lives import run_node

    trio.run(run_node, config)


def _flags(arguments: Sequence[str]) -> dict[str, str]:
    known = {*SETTINGS, "home", "ready-descriptor", "join-descriptor"}
    flags = {}
    for argument in arguments:
        name, separator, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not separator or name not in known:
            raise UsageError(f"the daemon does not know {argument!r}", hint="start it with `freecloud up`")
        flags[name.replace("-", "_")] = value
    return flags


def _read_token(descriptor: str | None) -> str:
    """The invite token, from the pipe that `freecloud join` left open; never from argv (attack 3)."""
    if descriptor is None:
        return ""
    with os.fdopen(int(descriptor), "rb") as pipe:
        return pipe.read(TOKEN_BYTES_MAX).decode(errors="replace").strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
