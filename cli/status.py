"""`freecloud status`: this mesh in one screen, with the age of what it says."""

from __future__ import annotations

import argparse
from typing import Any

from cli import output
from cli.options import client_of, common


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    common(parser, run, "freecloud status")


def run(options: argparse.Namespace) -> int:
    status = client_of(options).get("/v1/status")
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
            "apps": f"{apps['total']} ({apps['healthy']} of {apps['replicas']} replicas healthy)",
        }
    )
    for warning in status["warnings"]:
        output.note(f"! {warning}")
    return 0


def _quorum(quorum: dict[str, Any]) -> str:
    voters = ", ".join(quorum["voters"]) or "none"
    if quorum["has_quorum"]:
        return f"yes: leader {quorum['leader']}, voters {voters} (index {quorum['index']})"
    return (
        f"NO: {quorum['reachable']} of {len(quorum['voters'])} voters reachable, {quorum['needed']} needed "
        f"({voters}); what you see is {output.age(quorum['age_s'])} old"
    )


def _counts(counts: dict[str, int]) -> str:
    parts = [f"{number} {state}" for state, number in counts.items() if number]
    return ", ".join(parts)
