"""`freecloud apps`: what runs, where, why, and how to change it."""

from __future__ import annotations

import argparse
from typing import Any

from cli import output
from cli.options import about, client_of, verb, verbs
from daemon.client import segment


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    place = verbs(parser, "freecloud apps list")
    verb(place, "list", "every app", list_apps, "freecloud apps list")
    _named(place, "show", "one app, its replicas and releases", show_app, "freecloud apps show web")
    _named(place, "why", "why each replica is where it is, or is not placed", why_app, "freecloud apps why web")
    scale = _named(place, "scale", "change the number of replicas", scale_app, "freecloud apps scale web --replicas 5")
    scale.add_argument("--replicas", type=int, required=True, metavar="N", help="how many it shall have")
    logs = _named(place, "logs", "what its replicas wrote, past ones too", logs_app, "freecloud apps logs web -f")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as more is written")
    logs.add_argument("--lines", type=int, default=100, metavar="N", help="last lines of each replica (100)")
    about(logs, "--replica", "replica", help="one replica only")
    back = _named(place, "rollback", "return to an earlier release", rollback_app, "freecloud apps rollback web --to 3")
    back.add_argument("--to", type=int, metavar="RELEASE", help="which one (the last stable one)")
    _named(place, "remove", "stop it everywhere and forget it", remove_app, "freecloud apps remove web")
    execute = _named(place, "exec", "run a command beside a replica", exec_app, "freecloud apps exec web -- env")
    about(execute, "--replica", "replica", help="which one (any healthy one)")
    execute.add_argument("words", nargs="+", metavar="COMMAND", help="after --, so that its flags are its own")


def _named(place: Any, name: str, summary: str, run: Any, example: str) -> argparse.ArgumentParser:
    parser = verb(place, name, summary, run, example)
    about(parser, "app", "app", help="its name; see `freecloud apps list`")
    return parser


def list_apps(options: argparse.Namespace) -> int:
    answer = client_of(options).get("/v1/apps")
    if options.json:
        output.result(answer)
        return 0
    rows = [
        [app["name"], app["state"], str(app["release"]), f"{app['healthy']}/{app['replicas']}", app["address"]]
        for app in answer["apps"]
    ]
    output.table(["name", "state", "release", "healthy", "address"], rows, empty="no apps; see `freecloud deploy`")
    return 0


def show_app(options: argparse.Namespace) -> int:
    app = client_of(options).get(f"/v1/apps/{segment(options.app)}")
    if options.json:
        output.result(app)
        return 0
    output.fields(
        {
            "name": app["name"],
            "state": app["state"] + (f" ({app['reason']})" if app["reason"] else ""),
            "release": str(app["release"]),
            "replicas": f"{app['healthy']} healthy of {app['replicas']} wanted",
            "address": app["address"],
        }
    )
    rows = [
        [
            replica["id"],
            replica["health"],
            str(replica["release"]),
            replica["node"],
            replica["zone"] or "-",
            str(replica["restarts"]),
            output.age(replica["age_s"]),
            replica["detail"] or replica["reason"],
        ]
        for replica in app["placed"]
    ]
    output.table(["replica", "health", "release", "node", "zone", "restarts", "heard", "detail"], rows)
    for debt in app.get("debts", []):
        output.note(f"debt: {debt}")
    return 0


def why_app(options: argparse.Namespace) -> int:
    answer = client_of(options).get(f"/v1/apps/{segment(options.app)}/why")
    if options.json:
        output.result(answer)
        return 0
    for text in answer["lines"]:
        output.sentence(text)
    return 0


def scale_app(options: argparse.Namespace) -> int:
    path = f"/v1/apps/{segment(options.app)}/scale"
    answer = client_of(options).post(path, {"replicas": options.replicas})
    return _done(options, answer, f"{options.app} will have {options.replicas} replicas")


def rollback_app(options: argparse.Namespace) -> int:
    answer = client_of(options).post(f"/v1/apps/{segment(options.app)}/rollback", {"to": options.to})
    return _done(options, answer, f"{options.app} returns to release {answer['release']}")


def remove_app(options: argparse.Namespace) -> int:
    answer = client_of(options).delete(f"/v1/apps/{segment(options.app)}")
    return _done(options, answer, f"{options.app} was removed")


def logs_app(options: argparse.Namespace) -> int:
    query = {"follow": int(options.follow), "lines": options.lines, "replica": options.replica}
    for entry in client_of(options).lines("GET", f"/v1/apps/{segment(options.app)}/logs", query=query):
        if options.json:
            output.result(entry)
        else:
            output.line(entry["text"], mark=entry["replica"])
    return 0


def exec_app(options: argparse.Namespace) -> int:
    request = {"command": options.words, "replica": options.replica}
    status = 1
    for event in client_of(options).lines("POST", f"/v1/apps/{segment(options.app)}/exec", body=request):
        if options.json:
            output.result(event)
        elif "text" in event:
            (output.note if event.get("stream") == "stderr" else output.line)(event["text"].removesuffix("\n"))
        if "exit_code" in event:
            status = 0 if event["exit_code"] == 0 else 1
            if status and not options.json:
                output.note(f"freecloud: the command ended with exit status {event['exit_code']}")
    return status


def _done(options: argparse.Namespace, answer: dict[str, Any], text: str) -> int:
    if options.json:
        output.result(answer)
    else:
        output.line(text)
    return 0
