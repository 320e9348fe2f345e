"""How the command talks to a daemon: over its unix socket, or over TLS to a node elsewhere.

Plain `http.client`, because a command makes one call and must start in a moment; nothing of the daemon is imported.
A remote node is authenticated by the pin that its API token carries, never by a name or an authority (rule H2).
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

from mesh.errors import FailedError, FreecloudError, Kind, ProtocolError, UnreachableError, UsageError, rebuild

ANSWER_BYTES_MAX = 64 * 1024 * 1024
LINE_BYTES_MAX = 1024 * 1024
CONNECT_TIMEOUT_S = 5.0
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_PORT = 6780
TOKEN = re.compile(r"fct_[0-9a-f]+_[A-Za-z0-9-]+_([0-9a-f]{64})")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _PinnedConnection(http.client.HTTPConnection):
    """TLS to a node whose certificate's hash is known; every other certificate is refused before a byte is sent."""

    def __init__(self, host: str, port: int, pin: bytes, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._pin = pin

    def connect(self) -> None:
        super().connect()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # replaced by the pin, checked below
        wrapped = context.wrap_socket(self.sock)
        certificate = wrapped.getpeercert(binary_form=True) or b""
        if not hmac.compare_digest(hashlib.sha256(certificate).digest(), self._pin):
            wrapped.close()
            raise UnreachableError(
                f"{self.host}:{self.port} is not the node that the token was made for",
                why="its certificate is another one",
                hint="make a new token there with `freecloud auth tokens create`",
            )
        self.sock = wrapped


class Client:
    """One daemon's API.

    Args:
        socket_path: The daemon's unix socket; used when no `node` is given.
        node: https://HOST:PORT (or http:// for loopback) of a node elsewhere.
        token: An API token, needed with `node`.
        on_stale: Told, before an answer is read, for how many seconds that node has known no leader.
    """

    def __init__(
        self,
        socket_path: Path,
        *,
        node: str | None = None,
        token: str | None = None,
        on_stale: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._on_stale = on_stale
        self._socket_path = socket_path
        self._node = node
        self._token = token

    def get(self, path: str, **query: object) -> Any:
        return self.call("GET", path, query=query)

    def post(self, path: str, body: Mapping[str, Any] | None = None, *, timeout: float = DEFAULT_TIMEOUT_S) -> Any:
        return self.call("POST", path, body=body or {}, timeout=timeout)

    def delete(self, path: str, **query: object) -> Any:
        return self.call("DELETE", path, query=query)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Any:
        """One request with a JSON answer.

        Raises:
            FreecloudError: What the daemon answered, rebuilt; or why it could not be asked.
        """
        payload = None if body is None else json.dumps(body).encode()
        headers = {} if payload is None else {"Content-Type": "application/json"}
        connection, response = self._request(method, _with_query(path, query), payload, headers, timeout)
        with connection:
            return self._document(response)

    def send_file(self, method: str, path: str, content: BinaryIO, *, timeout: float = 600.0) -> dict[str, Any]:
        """Stream a file as the request's body; JSON answer."""
        headers = {"Content-Type": "application/octet-stream", "Transfer-Encoding": "chunked"}
        connection, response = self._request(method, path, _pieces(content), headers, timeout)
        with connection:
            answer: dict[str, Any] = self._document(response)
        return answer

    def lines(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        """A streamed answer, one JSON document a line; ends when the daemon ends it."""
        payload = None if body is None else json.dumps(body).encode()
        headers = {} if payload is None else {"Content-Type": "application/json"}
        connection, response = self._request(method, _with_query(path, query), payload, headers, timeout)
        with connection:
            try:
                while line := response.readline(LINE_BYTES_MAX):
                    document = _parsed(line)
                    if "problem" in document:
                        raise problem_to_error(document["problem"])
                    yield document
            except (OSError, http.client.HTTPException) as error:
                raise UnreachableError("the daemon went away in the middle of its answer", why=str(error)) from error

    def _request(
        self, method: str, path: str, payload: Any, headers: dict[str, str], timeout: float | None
    ) -> tuple[_Closing, http.client.HTTPResponse]:
        connection = self._connection()
        if self._token is not None and self._node is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.connect()
            connection.sock.settimeout(timeout)
            with suppress(BrokenPipeError, ConnectionResetError):  # who refuses early has answered before it hung up
                connection.request(method, path, body=payload, headers=headers, encode_chunked=True)
            response = connection.getresponse()
        except ValueError as error:  # of http.client and the codecs: a host that no header and no resolver can hold
            connection.close()
            raise UsageError("this cannot be asked of a daemon", why=str(error)) from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from error
        if response.status >= 400:
            with _Closing(connection):
                raise _error_of(response)
        age = response.headers.get("Freecloud-No-Quorum-For", "")
        if age.replace(".", "", 1).isdigit():
            self._on_stale(float(age))
        return _Closing(connection), response

    def _connection(self) -> http.client.HTTPConnection:
        if self._node is None:
            return _UnixConnection(self._socket_path, CONNECT_TIMEOUT_S)
        scheme, host, port = _parts_of(self._node)
        if self._token is None:
            raise UsageError("a node elsewhere needs an API token", hint="set FREECLOUD_TOKEN")
        pin = _pin_of(self._token)
        if scheme == "http":
            if host not in ("127.0.0.1", "localhost", "::1"):
                raise UsageError("plain http is for this machine only", hint="use https://")
            return http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)
        return _PinnedConnection(host, port, pin, CONNECT_TIMEOUT_S)

    def _unreachable(self, error: Exception) -> FreecloudError:
        if isinstance(error, TimeoutError):
            return UnreachableError("the daemon did not answer in time", hint="look at `freecloud doctor`")
        if self._node is not None:
            return UnreachableError(f"cannot reach {self._node}", why=str(error))
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return UnreachableError(
                f"no daemon runs in {self._socket_path.parent.parent}",
                hint="start it with `freecloud up`, or name its --home",
                code="daemon.absent",
            )
        if isinstance(error, PermissionError):
            return UnreachableError(f"not allowed to use {self._socket_path}", why="it belongs to another user")
        return UnreachableError("cannot talk to the daemon", why=str(error))

    @staticmethod
    def _document(response: http.client.HTTPResponse) -> Any:
        try:
            content = response.read(ANSWER_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError("the daemon went away in the middle of its answer", why=str(error)) from error
        if len(content) > ANSWER_BYTES_MAX:
            raise ProtocolError("the daemon's answer is too large", why=f"the limit is {ANSWER_BYTES_MAX} bytes")
        return _parsed(content) if content else None


class _Closing:
    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        return None

    def __exit__(self, *details: object) -> None:
        self._connection.close()


def segment(text: str) -> str:
    """One path segment, escaped.

    Raises:
        UsageError: It is no text; an argument in another encoding than the locale's arrives so.
    """
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        raise UsageError(f"{text!r} is not in this terminal's encoding", hint="look at LANG and LC_ALL") from error


def problem_to_error(problem: Mapping[str, Any]) -> FreecloudError:
    """The error that a problem document (RFC 9457) describes."""
    try:
        kind = Kind(problem.get("kind", "failed"))
    except ValueError:
        kind = Kind.FAILED
    error = rebuild(
        str(problem.get("code", "failed")),
        kind,
        str(problem.get("title", "the daemon failed")),
        str(problem.get("detail", "")),
        str(problem.get("hint", "")),
    )
    line, column = problem.get("line"), problem.get("column")
    if type(line) is int and type(column) is int and min(line, column) > 0:
        error.add_note(f"{line}:{column}")
    return error


def _error_of(response: http.client.HTTPResponse) -> FreecloudError:
    content = response.read(1024 * 1024)
    try:
        problem = _parsed(content)
    except ProtocolError:
        return FailedError(f"the daemon answered {response.status} {response.reason}")
    return problem_to_error(problem)


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the daemon's answer is cut short, or no JSON", why=str(error)) from error
    if not isinstance(document, dict):
        raise ProtocolError("the daemon's answer is no JSON object")
    return document


def _parts_of(node: str) -> tuple[str, str, int]:
    """(scheme, host, port) of a node's URL; the API's own port if it names none."""
    try:
        parts = urlsplit(node)
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise UsageError(f"--node takes https://HOST:PORT, not {node!r}")
    return parts.scheme, host, port


def _pieces(content: BinaryIO) -> Iterator[bytes]:
    while piece := content.read(256 * 1024):
        yield piece


def _with_query(path: str, query: Mapping[str, object] | None) -> str:
    given = {key: value for key, value in (query or {}).items() if value is not None}
    if not given:
        return path
    return path + "?" + "&".join(f"{key}={segment(str(value))}" for key, value in given.items())


def _pin_of(token: str) -> bytes:
    """The certificate hash inside fct_ID_SECRET_PIN; what is no token is told without showing it."""
    found = TOKEN.fullmatch(token)
    if found is None:
        raise UsageError("FREECLOUD_TOKEN is not an API token", hint="it looks like fct_…")
    return bytes.fromhex(found[1])
