"""What the owner of a node decides: flags over environment over `freecloud.toml` over defaults.

One frozen `Config`, validated once; nothing else in the daemon reads the environment or argv.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mesh.claims import check_labels, check_name, check_text, is_host, labels_of
from mesh.errors import UsageError
from mesh.key_file import PASSPHRASE_BYTES_MAX

DEFAULT_ADDRESS = {"mesh": "127.0.0.1:6700", "http": "127.0.0.1:6780", "ingress": "127.0.0.1:6781"}
"""Ports of the contract. Loopback unless told otherwise."""

SANDBOXES = ("auto", "bubblewrap", "uid", "landlock", "none")

CREDENTIAL = "freecloud-passphrase"
"""Of systemd: LoadCredentialEncrypted=freecloud-passphrase:FILE, which a TPM may hold."""

SETTINGS = ("name", "zone", "provider", "listen", "advertise", "http", "ingress", "sandbox", "unsandboxed", "labels")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything `run_node` needs to know.

    Addresses that were not named are None: the listener then begins at its default and gives way to the next free
    port (contract of the command line).
    """

    home: Path
    name: str
    zone: str = ""
    provider: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    listen: str | None = None
    advertise: str | None = None
    http: str | None = None
    ingress: str | None = None
    sandbox: str = "auto"
    unsandboxed: bool = False
    ready_descriptor: int | None = None
    join_token: str = field(default="", repr=False)
    passphrase: bytes = field(default=b"", repr=False)  # of the key file (rule T7)


def default_home(environment: Mapping[str, str]) -> Path:
    """$FREECLOUD_HOME, or freecloud/ in the platform's user data folder."""
    named = environment.get("FREECLOUD_HOME")
    if named:
        return Path(named).expanduser()
    data = environment.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "freecloud"


def load_config(flags: Mapping[str, object], environment: Mapping[str, str]) -> Config:
    """The one configuration of this process.

    Args:
        flags: What was given on the command line, by the names of `SETTINGS` and "home"; absent or None if not given.
        environment: FREECLOUD_NAME, FREECLOUD_LISTEN, … stand for the flags.

    Raises:
        UsageError: A value that cannot be meant; it names the setting and where it came from.
    """
    home = flags.get("home")
    root = Path(str(home)).expanduser() if home else default_home(environment)
    root = Path(os.path.abspath(root))  # noqa: PTH100 (Path.resolve would follow links, the owner's own names stay)
    toml = _read_toml(root / "freecloud.toml")

    def setting(name: str) -> object:
        if flags.get(name) is not None:
            return flags[name]
        if f"FREECLOUD_{name.upper()}" in environment:
            return environment[f"FREECLOUD_{name.upper()}"]
        return toml.get(name)

    config = Config(
        home=root,
        name=check_name(str(setting("name") or _host_name())),
        zone=check_text("zone", str(setting("zone") or "")),
        provider=check_text("provider", str(setting("provider") or "")),
        labels=_labels(setting("labels")),
        listen=_address("listen", setting("listen")),
        advertise=_address("advertise", setting("advertise")),
        http=_address("http", setting("http")),
        ingress=_address("ingress", setting("ingress")),
        sandbox=_one_of("sandbox", setting("sandbox"), SANDBOXES),
        unsandboxed=_truth(setting("unsandboxed")),
        ready_descriptor=_number(flags.get("ready_descriptor")),
        join_token=str(flags.get("join_token") or ""),
        passphrase=_passphrase(environment),
    )
    return _check_reachable(config)


def _check_reachable(config: Config) -> Config:
    """Every address of a machine is no address of it: others would be told to dial themselves."""
    if config.listen is not None and config.advertise is None and is_unspecified(config.listen):
        raise UsageError(
            f"--listen {config.listen} is every address of this machine, and none that others can dial",
            hint="name the one they reach it at: --advertise HOST:PORT",
        )
    return config


def is_unspecified(address: str) -> bool:
    try:
        return ipaddress.ip_address(split_address(address)[0]).is_unspecified
    except ValueError:
        return False  # a name


def split_address(address: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port"."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    host = split_address(address)[0]
    return host in ("localhost", "::1") or host.startswith("127.")


def _read_toml(path: Path) -> dict[str, object]:
    try:
        content = path.read_text()
    except FileNotFoundError:
        return {}
    except NotADirectoryError as error:
        raise UsageError(f"cannot use {path.parent} as home", why="no folder", hint="choose another --home") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}", why=error.strerror or "", hint="choose another --home") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text", why=f"byte {error.start} of it") from error
    try:
        values = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML", why=str(error)) from error
    unknown = sorted(set(values) - set(SETTINGS))
    if unknown:
        raise UsageError(f"{path} sets {unknown[0]!r}, which is no setting", hint=f"settings: {', '.join(SETTINGS)}")
    return values


def _passphrase(environment: Mapping[str, str]) -> bytes:
    """From the file that FREECLOUD_PASSPHRASE_FILE names, or systemd's credential; never from argv or a variable."""
    named = environment.get("FREECLOUD_PASSPHRASE_FILE")
    folder = environment.get("CREDENTIALS_DIRECTORY")
    path = Path(named) if named else Path(folder or "/nowhere") / CREDENTIAL
    if not named and (not folder or not path.exists()):
        return b""
    try:
        with path.open("rb") as file:
            content = file.read(PASSPHRASE_BYTES_MAX + 1).removesuffix(b"\n")
    except OSError as error:
        raise UsageError(f"cannot read the passphrase in {path}", why=error.strerror or "") from error
    if not 0 < len(content) <= PASSPHRASE_BYTES_MAX:
        raise UsageError(f"{path} holds no passphrase", why=f"it has 1 to {PASSPHRASE_BYTES_MAX} bytes")
    return content


def _host_name() -> str:
    name = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")
    return name[:40].strip("-") or "node"


def _labels(value: object) -> tuple[tuple[str, str], ...]:
    if isinstance(value, Mapping):
        pairs = {str(key): str(text) for key, text in value.items()}
        check_labels(pairs.items())
    else:
        items = value if isinstance(value, list | tuple) else str(value or "").split(",")
        pairs = labels_of(str(item) for item in items if item)
    return tuple(sorted(pairs.items()))


def _address(setting: str, value: object) -> str | None:
    if value in (None, ""):
        return None
    text = str(value)
    host, separator, port = text.rpartition(":")
    if not separator and text.isascii() and text.isdigit():
        return f"127.0.0.1:{_port(setting, text)}"
    if not separator or not is_host(host):
        raise UsageError(f"--{setting} takes HOST:PORT, not {text!r}")
    checked = _port(setting, port)
    if setting == "advertise" and checked == 0:
        raise UsageError("--advertise: nobody can reach port 0", hint="name the port that others see")
    return f"{host}:{checked}"


def _port(setting: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 8) or not 0 <= int(text) <= 65535:
        raise UsageError(f"--{setting}: {text!r} is no port", why="ports are 0 to 65535")
    return int(text)


def _one_of(setting: str, value: object, known: tuple[str, ...]) -> str:
    text = str(value or known[0])
    if text not in known:
        raise UsageError(f"{setting} cannot be {text!r}", hint=f"one of: {', '.join(known)}")
    return text


def _truth(value: object) -> bool:
    if isinstance(value, bool) or value is None:
        return bool(value)
    if str(value).lower() in ("1", "true", "yes", "on"):
        return True
    if str(value).lower() in ("", "0", "false", "no", "off"):
        return False
    raise UsageError(f"{value!r} is neither true nor false")


def _number(value: object) -> int | None:
    return None if value is None else int(str(value))
