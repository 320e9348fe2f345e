"""Deny by default, enumerated from the code: every method has a role, and each refuses whoever has a smaller one."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from math import inf
from pathlib import Path
from typing import Any

import pytest
import trio

from mesh.errors import RefusedError
from mesh.names import NodeId, Role
from mesh.rpc import Caller, Method, RpcServer, Shape
from mesh.trust import TrustedPeer, TrustStore

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("mesh", "gossip", "consensus", "scheduler", "daemon")

FOR_UNTRUSTED = {"gossip.stream-probe"}
"""The only thing that a member which is not trusted may ask: whether this node is there."""

CALLERS = {
    "stranger": None,
    "untrusted": (False, False),
    "observer": (True, False),
    "voter": (True, True),
}
ENOUGH = {
    Role.ANYONE: {"stranger", "untrusted", "observer", "voter"},
    Role.MEMBER: {"untrusted", "observer", "voter"},
    Role.TRUSTED: {"observer", "voter"},
    Role.VOTER: {"voter"},
}


def methods() -> dict[str, Method[Any, Any]]:
    """Every method that stands in the code, by the name of its constant."""
    found: dict[str, Method[Any, Any]] = {}
    for package in PACKAGES:
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if module.name.endswith("__main__"):
                continue
            values = vars(importlib.import_module(module.name)).items()
            found |= {name: value for name, value in values if isinstance(value, Method)}
    return found


METHODS = methods()


def calls_of(name: str) -> list[tuple[str, ast.Call]]:
    """(file, call) of each call of a method of this name on something that is called a server."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                if node.func.attr == name and ast.unparse(node.func.value).endswith("server"):
                    found.append((path.name, node))
    return found


def test_what_is_registered_is_a_method_with_a_role_and_none_is_for_anyone() -> None:
    registered = {ast.unparse(call.args[0]) for _, call in calls_of("register")}
    assert registered == set(METHODS), "what is registered, and what stands in the code, are the same"
    assert len(METHODS) > 10
    assert not [method.name for method in METHODS.values() if method.role is Role.ANYONE]
    assert {method.name for method in METHODS.values() if method.role is Role.MEMBER} == FOR_UNTRUSTED
    tunnels = {ast.unparse(call.args[0]): ast.unparse(call.args[1]) for _, call in calls_of("register_tunnel")}
    assert tunnels
    assert set(tunnels.values()) <= {"Role.TRUSTED", "Role.VOTER"}


def test_every_method_bounds_its_messages() -> None:
    for method in METHODS.values():
        limits = method.codec.limits
        assert 0 < limits.total_bytes_max <= 64 * 1024 * 1024, method.name
        assert 0 < limits.items_max <= 100_000, method.name


def trust_of(caller: str) -> TrustStore:
    who = CALLERS[caller]
    if who is None:
        return TrustStore()
    return TrustStore([TrustedPeer(NodeId("caller"), b"k" * 32, b"c", "caller", *who)])


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("name", METHODS)
async def test_a_method_is_refused_to_whoever_is_too_little(name: str, caller: str) -> None:
    method = METHODS[name]
    asked: list[str] = []
    server = RpcServer()

    async def unary(_caller: Caller, _request: Any) -> str:
        asked.append(name)
        return "answer"

    async def stream(_caller: Caller, _request: Any) -> Any:
        asked.append(name)
        yield "answer"

    handlers = {Shape.UNARY: unary, Shape.STREAM: stream, Shape.NOTICE: lambda _caller, _request: asked.append(name)}
    server.register(method, handlers[method.shape])
    trust, who = trust_of(caller), Caller(NodeId("caller"), inf)
    try:
        match method.shape:
            case Shape.UNARY:
                await server.call_here(trust, who, method, None)
            case Shape.STREAM:
                async for _ in server.stream_here(trust, who, method, None):
                    break
            case Shape.NOTICE:
                await trio.lowlevel.checkpoint()
                server.notice_here(trust, who, method, None)
    except RefusedError:
        assert caller not in ENOUGH[method.role]
        assert asked == []
    else:
        assert caller in ENOUGH[method.role]
        assert asked == [name]


async def test_a_method_that_nobody_registered_is_refused_like_one_that_is_not_allowed() -> None:
    server, who = RpcServer(), Caller(NodeId("caller"), inf)
    for method in METHODS.values():
        if method.shape is Shape.UNARY:
            with pytest.raises(RefusedError):
                await server.call_here(trust_of("voter"), who, method, None)
