"""`freecloud nodes`: who is there, how they are, and why we think so."""

from __future__ import annotations

import argparse

from cli import output
from cli.options import about, client_of, verb, verbs
from daemon.client import segment
from mesh.errors import UsageError


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    place = verbs(parser, "freecloud nodes list")
    verb(place, "list", "every member", list_nodes, "freecloud nodes list")
    show = verb(place, "show", "one member in full", show_node, "freecloud nodes show laptop")
    about(show, "name", "node", help="its name, or its id")
    why = verb(place, "why", "who thinks it is down, since when, by which probes", why_node, "freecloud nodes why pi")
    about(why, "name", "node", help="its name, or its id")
    remove = verb(place, "remove", "remove a member for good", remove_node, "freecloud nodes remove old-laptop")
    about(remove, "name", "node", help="its name, or its id")
    remove.add_argument("--force", metavar="NODE-ID", help="even if that leaves no quorum; type the node's id")
    drain = verb(place, "drain", "move its apps away, place nothing new", drain_node, "freecloud nodes drain pi")
    about(drain, "name", "node", help="its name, or its id")
    drain.add_argument("--off", action="store_true", help="take it back into service")
    label = verb(place, "label", "set labels; an empty value removes", label_node, "freecloud nodes label pi disk=ssd")
    about(label, "name", "node", help="its name, or its id")
    label.add_argument("labels", nargs="+", metavar="K=V")
    add = verb(place, "add", "make a node at a provider", add_node, "freecloud nodes add --provider render --token -")
    add.add_argument("--provider", required=True, help="who runs it")
    add.add_argument("--token", help='"-" reads it from stdin')


def list_nodes(options: argparse.Namespace) -> int:
    answer = client_of(options).get("/v1/nodes")
    if options.json:
        output.result(answer)
        return 0
    rows = [
        [
            node["name"] + (" *" if node["self"] else ""),
            node["state"] if node["direct"] else f"{node['state']}, indirect",
            node["role"],
            node["zone"] or "-",
            node["address"] or "-",
            str(node["replicas"]),
            output.age(node["heard_s"]),
        ]
        for node in answer["nodes"]
    ]
    output.table(["name", "state", "role", "zone", "address", "apps", "heard"], rows)
    return 0


def show_node(options: argparse.Namespace) -> int:
    node = client_of(options).get(f"/v1/nodes/{segment(options.name)}")
    if options.json:
        output.result(node)
        return 0
    output.fields(dict(_readable(key, value) for key, value in node.items()))
    return 0


def why_node(options: argparse.Namespace) -> int:
    answer = client_of(options).get(f"/v1/nodes/{segment(options.name)}/why")
    if options.json:
        output.result(answer)
        return 0
    output.sentence(answer["summary"])
    rows = [[entry["at"], entry["kind"], entry["by"] or "-", entry["text"]] for entry in answer["story"]]
    output.table(["at", "what", "by", "how"], rows)
    return 0


def remove_node(options: argparse.Namespace) -> int:
    answer = client_of(options).delete(f"/v1/nodes/{segment(options.name)}", force=options.force)
    return _done(options, answer, f"{answer['name']} was removed; its key is refused from now on")


def drain_node(options: argparse.Namespace) -> int:
    answer = client_of(options).post(f"/v1/nodes/{segment(options.name)}/drain", {"on": not options.off})
    return _done(options, answer, f"{answer['name']} is {'active again' if options.off else 'draining'}")


def label_node(options: argparse.Namespace) -> int:
    answer = client_of(options).post(f"/v1/nodes/{segment(options.name)}/labels", {"labels": options.labels})
    return _done(options, answer, f"{answer['name']}: {_text(answer['labels'])}")


def add_node(options: argparse.Namespace) -> int:
    raise UsageError("`nodes add` is not in this version", why="providers come with a later one")


def _done(options: argparse.Namespace, answer: dict[str, object], text: str) -> int:
    if options.json:
        output.result(answer)
    else:
        output.line(text)
    return 0


def _readable(key: str, value: object) -> tuple[str, str]:
    """A field of the API as a person reads it."""
    if isinstance(value, bool):
        return key.replace("_", " "), "yes" if value else "no"
    if key.endswith("_bytes") and isinstance(value, int):
        return key.removesuffix("_bytes").replace("_", " "), f"{value / (1 << 30):.1f} GiB" if value else "-"
    if key.endswith("_s") and isinstance(value, int | float):
        return key.removesuffix("_s").replace("_", " "), output.age(value)
    if key.endswith("_percent"):
        return key.removesuffix("_percent").replace("_", " "), f"{value} %"
    return key.replace("_", " "), _text(value)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={text}" for key, text in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "-"
    return "-" if value in (None, "") else str(value)
