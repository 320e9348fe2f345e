"""From the text of an `app.yaml` to a `Manifest`, key by key.

The first mistake ends the reading: a user corrects from the top, and half of all later ones follow from the first.
"""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath

from mesh.errors import ManifestError
from scheduler.manifest import Health, Manifest, Pairs, Resources, Restart, Rollout, Spread
from scheduler.manifest_fields import (
    Section,
    choice_of,
    duration_range_of,
    integer_of,
    items_of,
    number_of,
    pairs_of,
    text_of,
)
from scheduler.yaml_nodes import Node, Scalar, Sequence, mistake, read_tree

TEXT_BYTES_MAX = 64 * 1024
"""The longest text the ledger's codec takes; a real manifest has one or two KiB."""

REPLICAS_MAX = 1_000
"""The ledger's own bound (consensus.apply_apps)."""

GIB = 1024**3
RUNTIMES = ("process",)
RUNTIMES_LATER = ("static", "docker", "podman", "nomad", "kubernetes")

KEYS = (
    "name", "source", "command", "runtime", "install", "env", "secrets", "replicas", "resources", "health",
    "constraints", "spread", "rollout", "restart", "exclusive", "untrusted",
)  # fmt: skip

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_GIVEN = ("PORT", "SECRETS_DIR")  # set by the runner


def read_manifest(text: str) -> Manifest:
    """The manifest in this text; see `scheduler.manifest.parse`."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > TEXT_BYTES_MAX:
        raise ManifestError(
            f"the manifest has {size} bytes", line=1, column=1, why=f"the limit is {TEXT_BYTES_MAX >> 10} KiB"
        )
    top = Section(read_tree(text), "", KEYS)
    exclusive = top.flag("exclusive", False)
    env = _env(top)
    manifest = Manifest(
        name=_name(top),
        command=_command(top),
        source=top.text("source", "."),
        runtime=_runtime(top),
        install=_install(top),
        env=env,
        secrets=_secrets(top, env),
        replicas=_replicas(top, exclusive),
        resources=_resources(top),
        health=_health(top),
        constraints=_constraints(top),
        spread=_spread(top),
        rollout=_rollout(top, exclusive),
        restart=_restart(top),
        exclusive=exclusive,
        untrusted=top.flag("untrusted", False),
    )
    if manifest.untrusted and manifest.secrets:
        raise mistake(
            top.node_of("secrets"),
            "an app that may run on untrusted nodes has no secrets",
            hint="remove `untrusted: true` or `secrets`",
        )
    return manifest


def _name(top: Section) -> str:
    if not top.has("name"):
        raise mistake(top.node, "name is missing", hint="such as name: web")
    node = top.node_of("name")
    name = text_of(node, "name")
    if not _NAME.fullmatch(name):
        raise mistake(
            node,
            f"{name!r} is no name for an app",
            why="1 to 40 of a-z, 0-9 and -, beginning and ending with a letter or digit",
        )
    return name


def _command(top: Section) -> str:
    if not top.has("command"):
        raise mistake(top.node, "command is missing", hint="such as command: python app.py")
    node = top.node_of("command")
    if isinstance(node, Sequence):
        words = [text_of(item, "command") for item in items_of(node, "command", 200)]
        command = shlex.join(words)
    else:
        command = text_of(node, "command", bytes_max=8192)
    if not command.strip():
        raise mistake(node, "command is empty", hint="such as command: python app.py")
    return command


def _runtime(top: Section) -> str:
    if not top.has("runtime"):
        return "process"
    node = top.node_of("runtime")
    runtime = text_of(node, "runtime")
    if runtime in RUNTIMES_LATER:
        raise mistake(node, f"runtime {runtime} is not in this version", hint="use runtime: process")
    return choice_of(node, "runtime", RUNTIMES)


def _install(top: Section) -> str:
    if not top.has("install"):
        return ""
    node = top.node_of("install")
    text = text_of(node, "install")
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts or "\\" in text:
        raise mistake(node, "install is a file within the source", why=f"this is {text!r}", hint="requirements.txt")
    return path.as_posix()


def _env(top: Section) -> Pairs:
    if not top.has("env"):
        return ()
    found = []
    for key, value in pairs_of(top.node_of("env"), "env", 200):
        _check_variable(key, "env")
        found.append((key.text, text_of(value, f"env.{key.text}", bytes_max=8192)))
    return tuple(sorted(found))


def _secrets(top: Section, env: Pairs) -> tuple[str, ...]:
    if not top.has("secrets"):
        return ()
    names: list[str] = []
    for item in items_of(top.node_of("secrets"), "secrets", 100):
        name = text_of(item, "secrets")
        assert isinstance(item, Scalar)
        _check_variable(item, "secrets")
        if name in names:
            raise mistake(item, f"secret {name} is named twice")
        if name in dict(env):
            raise mistake(item, f"{name} stands in both env and secrets", hint="keep one of them")
        names.append(name)
    return tuple(names)


def _check_variable(key: Scalar, where: str) -> None:
    if not _VARIABLE.fullmatch(key.text):
        raise mistake(key, f"{key.text!r} in {where} is no name of a variable", why="letters, digits and _")
    if key.text in _GIVEN or key.text.startswith("FREECLOUD_"):
        raise mistake(key, f"{key.text} in {where} is set by freecloud itself", hint="choose another name")


def _replicas(top: Section, exclusive: bool) -> int:
    replicas = top.integer("replicas", 1, 0, REPLICAS_MAX)
    if exclusive and replicas > 1:
        raise mistake(
            top.node_of("replicas"), "an exclusive app has one replica", why="it never runs twice", hint="replicas: 1"
        )
    return replicas


def _resources(top: Section) -> Resources:
    section = _section(top, "resources", ("cpu", "memory", "disk"))
    default = Resources()
    if section is None:
        return default
    cpu = number_of(section.node_of("cpu"), "resources.cpu", 0.01, 256) if section.has("cpu") else default.cpu
    return Resources(
        cpu=cpu,
        memory_bytes=section.size_bytes("memory", default.memory_bytes, 4 * 1024 * 1024, 1024 * GIB),
        disk_bytes=section.size_bytes("disk", default.disk_bytes, 1024 * 1024, 16 * 1024 * GIB),
    )


def _health(top: Section) -> Health:
    section = _section(top, "health", ("path", "interval", "timeout", "healthy_after", "unhealthy_after"))
    default = Health()
    if section is None:
        return default
    path = section.text("path", default.path, bytes_max=1024)
    if path and not re.fullmatch(r"/[!-~]*", path):
        raise mistake(section.node_of("path"), "health.path begins with / and has no spaces", hint="such as /health")
    return Health(
        path=path,
        interval_s=section.duration_s("interval", default.interval_s, 0.1, 3600),
        timeout_s=section.duration_s("timeout", default.timeout_s, 0.05, 60),
        healthy_after=section.integer("healthy_after", default.healthy_after, 1, 100),
        unhealthy_after=section.integer("unhealthy_after", default.unhealthy_after, 1, 100),
    )


def _constraints(top: Section) -> Pairs:
    if not top.has("constraints"):
        return ()
    found = []
    for key, value in pairs_of(top.node_of("constraints"), "constraints", 50):
        if not _LABEL.fullmatch(key.text):
            raise mistake(key, f"{key.text!r} is no label", why="letters, digits and . _ / -, at most 63")
        found.append((key.text, text_of(value, f"constraints.{key.text}", bytes_max=255)))
    return tuple(sorted(found))


def _spread(top: Section) -> Spread:
    if not top.has("spread"):
        return Spread.ZONE
    return Spread(choice_of(top.node_of("spread"), "spread", [spread.value for spread in Spread]))


def _rollout(top: Section, exclusive: bool) -> Rollout:
    default = Rollout(max_unavailable=1, max_surge=0) if exclusive else Rollout()
    section = _section(top, "rollout", ("max_unavailable", "max_surge", "deadline", "rollback"))
    if section is None:
        return default
    rollout = Rollout(
        max_unavailable=section.integer("max_unavailable", default.max_unavailable, 0, REPLICAS_MAX),
        max_surge=section.integer("max_surge", default.max_surge, 0, REPLICAS_MAX),
        deadline_s=section.duration_s("deadline", default.deadline_s, 1, 24 * 3600),
        rollback=section.flag("rollback", default.rollback),
    )
    if exclusive and rollout.max_surge > 0:
        raise mistake(
            section.node_of("max_surge"),
            "an exclusive app has no surge",
            why="it never runs twice",
            hint="max_surge: 0",
        )
    if rollout.max_surge == 0 and rollout.max_unavailable == 0:
        raise mistake(
            section.node,
            "rollout lets nothing change",
            why="max_unavailable and max_surge are both 0",
            hint="max_surge: 1 starts the new one first",
        )
    return rollout


def _restart(top: Section) -> Restart:
    section = _section(top, "restart", ("backoff", "give_up_after"))
    default = Restart()
    if section is None:
        return default
    low, high = default.backoff_min_s, default.backoff_max_s
    if section.has("backoff"):
        low, high = duration_range_of(section.node_of("backoff"), "restart.backoff", 0.1, 3600)
    return Restart(low, high, _give_up_after(section))


def _give_up_after(section: Section) -> int:
    if not section.has("give_up_after"):
        return 0
    node = section.node_of("give_up_after")
    if isinstance(node, Scalar) and node.text == "none":
        return 0
    return integer_of(node, "restart.give_up_after", 1, 1000)


def _section(top: Section, key: str, known: tuple[str, ...]) -> Section | None:
    node: Node = top.node_of(key)
    return Section(node, key, known) if top.has(key) else None
