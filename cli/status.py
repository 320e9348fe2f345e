"""`freecloud status`: this mesh in one screen, with the age of what it says."""

from __future__ import annotations

import argparse
from typing import Any

from cli import output
from cli.options import client_of, common

NAMES_MAX = 8


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    common(parser, run, "freecloud status")


def run(options: argparse.Namespace) -> int:
    status = client_of(options, tell_age=False).get("/v1/status")
    if options.json:
        output.result(status)
        return 0
    node, quorum, nodes, apps = status["node"], status["quorum"], status["nodes"], status["apps"]
    output.fields(
        {
            "node": f"{node['name']} ({node['id'][:8]}), up {output.age(node['uptime_s'])}, sandbox {node['sandbox']}",
            "addresses": ", ".join(f"{key} {value}" for key, value in node["addresses"].items()),
            "mesh": f"{status['mesh']['id'][:8]}, epoch {status['mesh']['epoch']}",
            "quorum": _quorum(quorum),
            "nodes": _counts(nodes),
            "sees": _sees(status["sees"]),
            "apps": f"{apps['total']} ({apps['healthy']} of {apps['replicas']} replicas healthy)",
        }
    )
    for warning in status["warnings"]:
        output.note(f"! {warning}")
    return 0


def _quorum(quorum: dict[str, Any]) -> str:
    voters = ", ".join(quorum["voters"]) or "none"
    old = f"what you see is {output.age(quorum['age_s'])} old"
    if quorum["has_quorum"]:
        leader = quorum["leader"] + (f", heard of through others; {old}" if quorum["by_hearsay"] else "")
        return f"yes: leader {leader}, voters {voters} (index {quorum['index']})"
    reached = f"{quorum['reachable']} of {len(quorum['voters'])} voters reached ({', '.join(quorum['reached'])})"
    if quorum["reachable"] >= quorum["needed"]:
        return f"NO leader yet: {reached}, {quorum['needed']} needed; {old}"
    return f"NO: {reached}, {quorum['needed']} of {voters} needed; {old}"


def _sees(others: list[dict[str, Any]]) -> str:
    """Whom this node hears, and of whom it hears nothing and since when."""
    texts = []
    for other in others:
        if other["state"] not in ("alive", "draining"):
            since = "never heard" if other["heard_s"] is None else f"heard {output.age(other['heard_s'])} ago"
            texts.append(f"{other['name']} ({other['state']}, {since})")
        elif not other["direct"]:
            texts.append(f"{other['name']} (through others)")
    seen = [other["name"] for other in others if other["state"] == "alive" and other["direct"]]
    names = ", ".join(seen) if len(seen) <= NAMES_MAX else f"{len(seen)} others"
    return "; not ".join([names or "nobody else", *([", ".join(texts)] if texts else [])])


def _counts(counts: dict[str, int]) -> str:
    parts = [f"{number} {state}" for state, number in counts.items() if number]
    return ", ".join(parts)
