"""Who may: the socket's peer, or the bearer of a token with the scope."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from consensus.records import ApiToken
from daemon.api.auth import OWNER, Throttle, make_token, principal_of_socket, principal_of_token
from mesh.errors import ExhaustedError, RefusedError

NOW_MS = 1_000_000
TEXT, TOKEN_ID, HASH = make_token(b"certificate")
TOKEN = ApiToken(TOKEN_ID, "ci", HASH, ("deploy",), 0, NOW_MS + 1)


def test_the_right_token_has_its_scopes_and_what_they_hold() -> None:
    principal = principal_of_token(f"Bearer {TEXT}", {TOKEN_ID: TOKEN}, NOW_MS)
    principal.require("deploy")
    principal.require("read")
    with pytest.raises(RefusedError):
        principal.require("admin")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Basic " + TEXT,
        "Bearer " + TEXT.replace(TOKEN_ID, "00000000"),
        "Bearer fct_a_b",
        f"Bearer x{TEXT}",
    ],
)
def test_no_token_and_a_wrong_one_are_refused_in_the_same_words(header: str) -> None:
    with pytest.raises(RefusedError, match="needs a valid API token"):
        principal_of_token(header, {TOKEN_ID: TOKEN}, NOW_MS)


def test_each_changed_character_of_the_secret_is_refused() -> None:
    parts = TEXT.split("_")
    for position in range(len(parts[2])):
        changed = parts[2][:position] + ("a" if parts[2][position] != "a" else "b") + parts[2][position + 1 :]
        with pytest.raises(RefusedError):
            principal_of_token(f"Bearer {'_'.join([*parts[:2], changed, parts[3]])}", {TOKEN_ID: TOKEN}, NOW_MS)


def test_an_expired_token_and_a_revoked_one_are_refused() -> None:
    with pytest.raises(RefusedError):
        principal_of_token(f"Bearer {TEXT}", {TOKEN_ID: replace(TOKEN, expires_ms=NOW_MS)}, NOW_MS)
    with pytest.raises(RefusedError):
        principal_of_token(f"Bearer {TEXT}", {}, NOW_MS)


def test_the_socket_belongs_to_its_owner_and_root() -> None:
    assert principal_of_socket(os.getuid()) is OWNER
    with pytest.raises(RefusedError):
        principal_of_socket(os.getuid() + 12345)
    with pytest.raises(RefusedError):
        principal_of_socket(None)


def test_ten_failures_make_an_address_wait_longer_each_time_and_no_other() -> None:
    throttle = Throttle()
    for _ in range(10):
        throttle.check("10.0.0.1", 0.0)
        throttle.failed("10.0.0.1", 0.0)
    with pytest.raises(ExhaustedError):
        throttle.check("10.0.0.1", 0.5)
    throttle.check("10.0.0.2", 0.5)
    throttle.check("10.0.0.1", 1.5)
    throttle.failed("10.0.0.1", 1.5)
    with pytest.raises(ExhaustedError):
        throttle.check("10.0.0.1", 3.0)
