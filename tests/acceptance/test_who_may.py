"""Who may do what, asked of a real daemon over real sockets: tokens, scopes, foreign pages, bad bodies, strangers."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import secrets
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon.api.app import OPERATIONS
from daemon.api.operations import JSON_BODY_BYTES_MAX, Operation
from daemon.home import Home
from mesh.framing import FrameDecoder
from mesh.identity import create_identity
from mesh.last_word import Reason, last_word_frame, read_last_word
from tests.e2e.cluster import Cluster, Daemon, wait_until

HOLDS = {
    "read": {"read"},
    "deploy": {"deploy", "read"},
    "data": {"data", "read"},
    "admin": {"read", "deploy", "data", "admin"},
}
PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The body as a problem document, which every refusal is."""
        assert self.headers["content-type"] == PROBLEM, (self.status, self.body)
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        assert {"type", "title", "status", "code"} <= set(document)
        assert "Traceback" not in self.body.decode()
        return document


@pytest.fixture(scope="module")
def node() -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    made = Cluster(folder)
    try:
        (first,) = made.start(1)
        pid = first.pid
        yield first
        log = Home(first.home).daemon_log.read_text()
        assert "Traceback" not in log, log
        assert first.pid == pid, "the daemon that was asked is the one that still runs"
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def tokens(node: Daemon) -> dict[str, str]:
    """One token of each scope alone."""
    month = 30 * 24 * 3600 * 1000
    made = {}
    for scope in HOLDS:
        answer = node.client.post("/v1/tokens", {"name": scope, "scopes": [scope], "expires_ms": month})
        made[scope] = answer["token"]
    return made


def ask(
    node: Daemon,
    method: str,
    path: str,
    *,
    token: str | None = None,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    source: str = "127.0.0.1",
) -> Answer:
    """One request over TCP, from an address of its own where the test wants one."""
    host, _, port = node.addresses["http"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20, source_address=(source, 0))
    sent = dict(headers or {})
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path, body=body, headers=sent)
        response = connection.getresponse()
        fields = {key.lower(): value for key, value in response.getheaders()}
        return Answer(response.status, fields, response.read())
    finally:
        connection.close()


def harmless(operation: Operation) -> tuple[str, bytes | None]:
    """A path and a body that get past every check of who may, and then change nothing."""
    path = operation.path.replace("{name}", "nothing").replace("{id}", "nothing")
    return path, b'{"no-such-field": 1}' if operation.method in ("POST", "PUT") else None


@pytest.mark.parametrize("number", range(len(OPERATIONS)), ids=[f"{op.method} {op.path}" for op in OPERATIONS])
def test_an_operation_is_for_those_whose_token_has_its_scope(
    number: int, node: Daemon, tokens: dict[str, str]
) -> None:
    operation = OPERATIONS[number]
    path, body = harmless(operation)
    source = f"127.1.0.{number + 1}"  # wrong tokens make an address wait
    nobody = ask(node, operation.method, path, body=body, source=source)
    assert (nobody.status, nobody.problem["code"]) == (401, "token")
    assert nobody.headers["www-authenticate"] == "Bearer"
    kind, token_id, secret, pin = tokens["admin"].split("_")
    guess = "_".join([kind, token_id, secret[:-1] + ("a" if secret[-1] != "a" else "b"), pin])
    wrong = ask(node, operation.method, path, body=body, token=guess, source=source)
    assert (wrong.status, wrong.problem["code"]) == (401, "token")
    for scope, token in tokens.items():
        if operation.path == "/v1/bundles" and operation.scope in HOLDS[scope]:
            body = b""  # any bytes are a source here; none are not
        answer = ask(node, operation.method, path, body=body, token=token, source=source)
        if operation.scope in HOLDS[scope]:
            assert answer.status in (200, 400, 404), (scope, answer)
        else:
            assert (answer.status, answer.problem["code"]) == (403, "scope"), scope


def test_the_document_of_the_api_needs_a_token_too(node: Daemon, tokens: dict[str, str]) -> None:
    assert ask(node, "GET", "/v1/openapi.json").status == 401
    described = json.loads(ask(node, "GET", "/v1/openapi.json", token=tokens["read"]).body)
    served = {(op.method.lower(), op.path) for op in OPERATIONS}
    assert served == {(method, path) for path, methods in described["paths"].items() for method in methods}


def test_an_unknown_path_and_a_wrong_method_are_told_to_members_only(node: Daemon, tokens: dict[str, str]) -> None:
    assert ask(node, "GET", "/v1/nothing").status == 401
    assert ask(node, "DELETE", "/v1/status").status == 401
    for path in ("/v1/nothing", "/", "/v1/status/", "//v1/status", "/v1/nodes/a/b/c", "/v1/%2e%2e/v1/status"):
        answer = ask(node, "GET", path, token=tokens["admin"])
        assert (answer.status, answer.problem["kind"]) == (404, "missing"), path
    wrong = ask(node, "PATCH", "/v1/apps", token=tokens["admin"])
    assert (wrong.status, wrong.problem["code"]) == (405, "method")
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "POST"}
    assert ask(node, "TRACE", "/v1/status", token=tokens["admin"]).status == 501


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:6780", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "[::2]", "a"],
)
def test_a_foreign_host_is_refused_before_anything_else(host: str, node: Daemon, tokens: dict[str, str]) -> None:
    answer = ask(node, "GET", "/v1/status", token=tokens["admin"], headers={"Host": host})
    assert (answer.status, answer.problem["code"]) == (403, "host")


def test_the_node_answers_to_its_own_names(node: Daemon, tokens: dict[str, str]) -> None:
    port = node.addresses["http"].rpartition(":")[2]
    for host in (f"localhost:{port}", f"LOCALHOST:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost"):
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert ask(node, "GET", "/v1/status", token=tokens["read"], headers=headers).status == 200, host


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1", "x", ""])
def test_a_foreign_page_is_refused_even_with_a_token(origin: str, node: Daemon, tokens: dict[str, str]) -> None:
    answer = ask(node, "POST", "/v1/invites", token=tokens["admin"], headers={"Origin": origin}, body=b"{}")
    assert (answer.status, answer.problem["code"]) == (403, "origin")


def test_requests_without_a_token_lock_nobody_out_and_ten_wrong_ones_only_their_address(
    node: Daemon, tokens: dict[str, str]
) -> None:
    """An <img> of a foreign page sends neither Origin nor token; it must not make the owner's own token wait."""
    for _ in range(15):
        assert ask(node, "GET", "/v1/status", source="127.2.0.1").status == 401
    assert ask(node, "GET", "/v1/status", token=tokens["read"], source="127.2.0.1").status == 200
    for _ in range(10):
        assert ask(node, "GET", "/v1/status", token="fct_a_b_c", source="127.2.0.2").status == 401
    locked = ask(node, "GET", "/v1/status", token=tokens["read"], source="127.2.0.2")
    assert (locked.status, locked.problem["code"]) == (429, "limit.auth-failures")
    assert ask(node, "GET", "/v1/status", token=tokens["read"], source="127.2.0.3").status == 200


def websocket(node: Daemon, path: str, **headers: str) -> bytes:
    """The status line that a WebSocket handshake gets."""
    host, _, port = node.addresses["http"].rpartition(":")
    fields = {
        "Host": f"{host}:{port}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(secrets.token_bytes(16)).decode(),
        **headers,
    }
    head = f"GET {path} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in fields.items()) + "\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode())
        answer = b""
        while b"\r\n" not in answer and (piece := connection.recv(4096)):
            answer += piece
        return answer.split(b"\r\n")[0]


def test_a_websocket_of_a_foreign_page_is_never_opened(node: Daemon, tokens: dict[str, str]) -> None:
    bearer = {"Authorization": f"Bearer {tokens['read']}"}
    assert b" 101 " in websocket(node, "/v1/events", **bearer)
    assert b" 403 " in websocket(node, "/v1/events", Origin="http://evil.example", **bearer)
    assert b" 403 " in websocket(node, "/v1/events", **{**bearer, "Host": "evil.example"})
    assert b" 403 " in websocket(node, "/v1/events")
    assert b" 403 " in websocket(node, "/v1/status", **bearer)


HUGE = 10**30
HALF = "\ud800"
APP = "name: a\nsource: .\ncommand: x"
BAD_BODIES: tuple[tuple[str, str, Any, int], ...] = (
    ("POST", "/v1/invites", b"{", 400),
    ("POST", "/v1/invites", b"[" * 100_000, 400),
    ("POST", "/v1/invites", b'"text"', 400),
    ("POST", "/v1/invites", b"\xff\xfe\x00", 400),
    ("POST", "/v1/invites", b'{"uses": NaN, "expires_ms": 1}', 400),
    ("POST", "/v1/invites", b'{"uses": 1' + b"0" * 5000 + b', "expires_ms": 1}', 400),
    ("POST", "/v1/invites", b"", 400),
    ("POST", "/v1/invites", {"uses": "1", "expires_ms": 1000}, 400),
    ("POST", "/v1/invites", {"uses": True, "expires_ms": 1000}, 400),
    ("POST", "/v1/invites", {"uses": 1.0, "expires_ms": 1000}, 400),
    ("POST", "/v1/invites", {"uses": HUGE, "expires_ms": 1000}, 400),
    ("POST", "/v1/invites", {"uses": 1, "expires_ms": HUGE}, 400),
    ("POST", "/v1/invites", {"uses": -1, "expires_ms": -1}, 400),
    ("POST", "/v1/invites", {"uses": 1, "expires_ms": 1000, "labels": [HALF + "=1"]}, 400),
    ("POST", "/v1/invites", {"uses": 1, "expires_ms": 1000, "labels": [1]}, 400),
    ("POST", "/v1/invites", {"uses": 1, "expires_ms": 1000, "labels": "a=b"}, 400),
    ("POST", "/v1/invites", {"uses": 1, "expires_ms": 1000, HALF: 1}, 400),
    ("POST", "/v1/invites", {"uses": None, "expires_ms": 1000}, 400),
    ("POST", "/v1/nodes/n1/labels", {"labels": [f"k{number}=v" for number in range(20_000)]}, 413),
    ("POST", "/v1/nodes/n1/labels", {"labels": ["\x1b[31m=1"]}, 400),
    ("POST", "/v1/nodes/n1/drain", {"on": "yes"}, 400),
    ("POST", "/v1/nodes/nobody/drain", {"on": True}, 404),
    ("DELETE", "/v1/nodes/n1", None, 403),
    ("DELETE", "/v1/nodes/%FF%00", None, 404),
    ("GET", "/v1/nodes/n%0d%0a1", None, 404),
    ("PUT", "/v1/secrets/A", {"value": HALF}, 400),
    ("PUT", "/v1/secrets/..%2f", {"value": "x"}, 404),
    ("PUT", "/v1/secrets/..", {"value": "x"}, 400),
    ("PUT", "/v1/secrets/A", {"value": 7}, 400),
    ("PUT", "/v1/secrets/A", {"value": "x" * 70_000}, 403),
    ("POST", "/v1/tokens", {"name": "x", "scopes": ["read"], "expires_ms": 10**15}, 400),
    ("POST", "/v1/tokens", {"name": "x", "scopes": ["root"], "expires_ms": 1000}, 400),
    ("POST", "/v1/tokens", {"name": "x", "scopes": [], "expires_ms": 1000}, 400),
    ("POST", "/v1/tokens", {"name": "\x1b[2J", "scopes": ["read"], "expires_ms": 1000}, 400),
    ("DELETE", "/v1/tokens/" + "x" * 5000, None, 404),
    ("POST", "/v1/apps/check", {"manifest": HALF}, 400),
    ("POST", "/v1/apps/check", {"manifest": "a: &a [x]\nb: [*a, *a]"}, 400),
    ("POST", "/v1/apps/plan", {"manifest": "[" * 10_000}, 400),
    ("POST", "/v1/apps", {"manifest": "name: \x00", "bundle": "x"}, 400),
    ("POST", "/v1/apps", {"manifest": APP, "bundle": HALF}, 400),
    ("POST", "/v1/apps/nothing/scale", {"replicas": HUGE}, 400),
    ("POST", "/v1/apps/nothing/scale", {"replicas": 1}, 404),
    ("POST", "/v1/apps/nothing/rollback", {"to": -HUGE}, 400),
    ("POST", "/v1/apps/nothing/exec", {"command": "ls"}, 400),
    ("POST", "/v1/apps/nothing/exec", {"command": ["a\0b"]}, 404),
    ("GET", "/v1/apps/nothing/logs?lines=%C2%B2", None, 400),
    ("GET", "/v1/apps/nothing/logs?lines=" + "9" * 5000, None, 400),
    ("GET", "/v1/apps/nothing/logs?lines=-1", None, 400),
    ("GET", "/v1/apps/../logs", None, 404),
    ("GET", "/v1/apps/nothing/logs?replica=..%2f..%2fetc", None, 404),
    ("GET", "/v1/apps/nothing/logs?follow=1", None, 404),
    ("POST", "/v1/recover", {"mesh_id": "x", "epoch": HUGE}, 400),
    ("POST", "/v1/daemon/stop", {"drain": "now"}, 400),
)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    BAD_BODIES,
    ids=[f"{method} {path[:32]} {str(body)[:40]!r}" for method, path, body, _ in BAD_BODIES],
)
def test_what_cannot_be_meant_is_a_problem_document(
    method: str, path: str, body: Any, status: int, node: Daemon, tokens: dict[str, str]
) -> None:
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    answer = ask(node, method, path, token=tokens["admin"], body=sent)
    assert answer.status == status, answer
    assert answer.problem["title"]


def test_a_body_without_end_is_refused_at_the_limit(node: Daemon, tokens: dict[str, str]) -> None:
    with socket.create_connection(("127.0.0.1", int(node.addresses["http"].rpartition(":")[2])), timeout=20) as raw:
        raw.sendall(
            f"POST /v1/invites HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {tokens['admin']}\r\n"
            f"Transfer-Encoding: chunked\r\n\r\n{JSON_BODY_BYTES_MAX + 1:x}\r\n".encode()
        )
        raw.sendall(b"x" * (JSON_BODY_BYTES_MAX + 1) + b"\r\n")
        assert b" 413 " in raw.recv(4096).split(b"\r\n")[0]


def test_the_unix_socket_is_its_owner_s_alone(node: Daemon) -> None:
    path = Home(node.home).socket
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for child in node.home.iterdir():
        assert not stat.S_IMODE(child.stat().st_mode) & (0o066 if child.name == "apps" else 0o077), child
    if os.getuid() != 0:
        pytest.skip("another user can be tried by root only")
    child = os.fork()  # the interpreter itself may lie where another user cannot start it
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX) as other:
            try:
                other.connect(str(path))
            except PermissionError:
                os._exit(13)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 13


# --- the mesh port ----------------------------------------------------------------------------------------------


def own_certificate(folder: Path) -> Path:
    """The certificate and key of somebody whom no mesh knows."""
    return create_identity(folder).pem_path


def talk(address: str, alpn: str | None, *, pem: Path | None = None, words: bytes = b"") -> bytes:
    """Whatever a node says inside TLS to somebody who speaks this protocol, shows this key and says these words."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    if pem is not None:
        context.load_cert_chain(pem)
    heard = b""
    try:
        with socket.create_connection((host, int(port)), timeout=20) as raw, context.wrap_socket(raw) as tls:
            if words:
                tls.sendall(words)
            while piece := tls.recv(65536):
                heard += piece
    except (ssl.SSLError, ConnectionError):
        pass  # refused within TLS: the same as closed, but for the alert
    return heard


@pytest.mark.parametrize("alpn", [None, "freecloud-mesh/1", "http/1.1", "h2", "freecloud-mesh/9"])
@pytest.mark.parametrize("with_key", [False, True])
def test_a_stranger_with_tls_gets_no_byte_of_the_mesh(
    alpn: str | None, with_key: bool, node: Daemon, tmp_path: Path
) -> None:
    pem = own_certificate(tmp_path) if with_key else None
    assert talk(node.addresses["mesh"], alpn, pem=pem) == b""
    assert talk(node.addresses["mesh"], alpn, pem=pem, words=b"\0" * 4096) == b""


def test_a_stranger_who_asks_to_join_is_told_a_nonce_and_nothing_of_the_mesh(node: Daemon, tmp_path: Path) -> None:
    status = node.status()
    for words in (b"", b"\0\0\0\1x", b"\xff" * 4096, b"GET / HTTP/1.1\r\n\r\n"):
        pem = own_certificate(tmp_path / words[:1].hex())
        heard = talk(node.addresses["mesh"], "freecloud-join/1", pem=pem, words=words)
        assert len(heard) < 1024
        for fact in (status["mesh"]["id"], status["node"]["id"], status["node"]["name"]):
            assert fact.encode() not in heard


def test_a_stranger_without_tls_hears_nothing(node: Daemon) -> None:
    host, _, port = node.addresses["mesh"].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        heard = b""
        with contextlib.suppress(ConnectionError):
            while piece := raw.recv(4096):
                heard += piece
    assert not heard or heard.startswith(b"\x15\x03"), "nothing, or a TLS alert"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gossip:
        gossip.settimeout(1.0)
        for size in (1, 100, 1200):
            gossip.sendto(secrets.token_bytes(size), (host, int(port)))
        with pytest.raises(TimeoutError):
            gossip.recv(65536)


class Heard:
    """What a program says on stderr, read beside the test, so that nobody waits for a line that never comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        self.lines.extend(self._process.stderr)

    def all(self) -> str:
        """Everything, once it has ended."""
        assert self._process.wait(timeout=60) is not None
        self._reader.join(timeout=20)
        return "".join(self.lines)


def links_to(node: Daemon) -> int:
    return int(node.status()["links"])


def is_removal_only(heard: bytes) -> bool:
    """All that a removed key is told: that it was removed, in which epoch, and how far the ledger was read."""
    frame = next(FrameDecoder().feed(heard))
    word = read_last_word(frame.payload)
    return heard == last_word_frame(word) and (word.reason, word.epoch) == (Reason.REMOVED, 1)


@pytest.mark.deadline(180)
def test_a_removed_node_stops_says_why_and_stays_out() -> None:
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    made = Cluster(folder)
    try:
        first, second, third = made.start(3)
        gone = Daemon("gone", folder / "gone")
        command = [sys.executable, "-m", "cli.main", "join", "-", "--home", str(gone.home), "--name", "gone"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdin is not None
                process.stdin.write(made.token() + "\n")
                process.stdin.close()
                heard = Heard(process)
                others = (first, second, third)
                wait_until("it joined", lambda: gone.pid is not None and all(Cluster.alive(n) == 4 for n in others))
                wait_until("all are linked with it", lambda: all(links_to(node) == 3 for node in others))
                pem = Home(gone.home).identity
                done = first.run("nodes", "remove", "gone")
                assert done.status == 0, done.err
                # Two seconds, tenfold: what is waited for is the event.
                wait_until("its links are closed", lambda: all(links_to(n) == 2 for n in others), limit_s=20)
                said = heard.all()
            finally:
                process.kill()
        assert process.returncode == 4, said
        assert "removed from the mesh" in said.strip().splitlines()[-1]
        assert "Traceback" not in said
        again = gone.up()
        assert again.status == 4, again
        assert (again.err.count("\n"), "removed" in again.err) == (1, True), again.err
        back = gone.join(made.token())
        assert (back.status, back.err.count("\n")) == (4, 1), back
        (key,) = pem.glob("*.pem")
        for node in others:
            assert is_removal_only(talk(node.addresses["mesh"], "freecloud-mesh/1", pem=key, words=b"\0" * 64))
            assert [row["name"] for row in node.client.get("/v1/nodes")["nodes"]] == ["n1", "n2", "n3"]
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.deadline(180)
def test_who_was_removed_while_it_was_away_hears_of_it_from_any_member_and_remembers_it() -> None:
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    made = Cluster(folder)
    try:
        first, *_, down = made.start(3)
        down.destroy()
        assert first.run("nodes", "remove", down.name).status == 0
        late = down.run("up", "--detach")
        if late.status == 0:  # on a busy machine it hears of it when it serves already
            wait_until("it ended", lambda: down.pid is None)
            assert "removed from the mesh" in Home(down.home).daemon_log.read_text()
        else:
            assert (late.status, "removed from the mesh" in late.err, late.err.count("\n")) == (4, True, 1), late
        made.stop()
        alone = down.run("up", "--detach")  # nobody is there to say it again
        assert (alone.status, "removed from the mesh" in alone.err, alone.err.count("\n")) == (4, True, 1), alone
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)
