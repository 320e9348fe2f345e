"""The peer: Debian's etcd-server, as a cluster on this machine with its own defaults, asked by its JSON gateway."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.samples import NotMeasuredError

PACKAGES = ("etcd-server", "etcd-client")
READY_S = 30.0
POLL_S = 0.01
CALL_TIMEOUT_S = 5.0


def missing_etcd() -> str:
    """Why there is no etcd to compare with; "" if there is one. Installs Debian's where root may."""
    if shutil.which("etcd"):
        return ""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return "etcd is not installed"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *PACKAGES]
    for command in (install, ["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if shutil.which("etcd"):
            return ""
    return f"etcd-server could not be installed: {done.stderr.strip().splitlines()[-1:]}"


@dataclass(slots=True)
class Member:
    """One etcd process."""

    name: str
    folder: Path
    client_port: int
    peer_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self.process is None:
            raise NotMeasuredError(f"etcd member {self.name} does not run")
        return self.process.pid

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    def call(self, path: str, body: dict[str, Any], timeout: float = CALL_TIMEOUT_S) -> dict[str, Any] | None:
        """One call of the JSON gateway; None if it was refused or not answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.client_port, timeout=timeout)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
            return answer if response.status == 200 else None
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def put(self, key: str, value: str, timeout: float) -> bool:
        body = {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value.encode()).decode()}
        return self.call("/v3/kv/put", body, timeout) is not None

    def leads(self) -> bool:
        answer = self.call("/v3/maintenance/status", {})
        return answer is not None and answer.get("leader") == answer["header"]["member_id"]


@dataclass(slots=True)
class EtcdCluster:
    """Some members; ended and forgotten on leaving the `with`."""

    folder: Path
    count: int = 3
    members: list[Member] = field(default_factory=list)

    def __enter__(self) -> EtcdCluster:
        for number in range(self.count):
            self.members.append(self._member(f"e{number}"))
        for member in self.members:
            self._start(member, self.members, "new")
        self.wait_for_leader()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members:
            self.kill(member)

    def wait_for_leader(self) -> Member:
        """The one that leads, once one does and all members answer a write."""
        limit = time.monotonic() + READY_S
        while time.monotonic() < limit:
            if all(member.put("ready", "", 1.0) for member in self.members):
                for member in self.members:
                    if member.leads():
                        return member
            time.sleep(POLL_S)
        raise NotMeasuredError("etcd did not become ready")

    def kill(self, member: Member) -> None:
        """kill -9."""
        if member.process is not None:
            member.process.kill()
            member.process.wait()
            member.process = None

    def restart(self, member: Member) -> None:
        self._start(member, self.members, "existing")

    def join(self, name: str) -> float:
        """One more member: announce it, start it, see it started in the others' list; how long that took.

        etcd takes no members in its first seconds ("unhealthy cluster"); the time begins with the call it accepts.
        """
        member = self._member(name)
        asked = self.members[0]
        limit = time.monotonic() + READY_S
        began = time.monotonic()
        while asked.call("/v3/cluster/member/add", {"peerURLs": [member.peer_url]}) is None:
            if time.monotonic() > limit:
                raise NotMeasuredError("etcd did not admit a member")
            time.sleep(POLL_S)
            began = time.monotonic()
        self._start(member, [*self.members, member], "existing")
        self.members.append(member)
        while time.monotonic() < limit:
            listed = asked.call("/v3/cluster/member/list", {}) or {}
            if any(row.get("name") == name for row in listed.get("members", [])):
                return time.monotonic() - began
            time.sleep(POLL_S)
        raise NotMeasuredError("a new etcd member was not listed")

    def leave(self, name: str) -> None:
        """Take a member out and end it."""
        member = next(member for member in self.members if member.name == name)
        listed = self.members[0].call("/v3/cluster/member/list", {}) or {}
        for row in listed.get("members", []):
            if row.get("name") == member.name:
                self.members[0].call("/v3/cluster/member/remove", {"ID": row["ID"]})
        self.kill(member)
        self.members.remove(member)

    def _member(self, name: str) -> Member:
        return Member(name, self.folder / name, free_port(), free_port())

    def _start(self, member: Member, among: list[Member], state: str) -> None:
        client = f"http://127.0.0.1:{member.client_port}"
        options = {
            "name": member.name,
            "data-dir": str(member.folder),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": member.peer_url,
            "initial-advertise-peer-urls": member.peer_url,
            "initial-cluster": ",".join(f"{other.name}={other.peer_url}" for other in among),
            "initial-cluster-state": state,
            "log-level": "error",
        }
        command = ["etcd", *(f"--{name}={value}" for name, value in options.items())]
        member.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
