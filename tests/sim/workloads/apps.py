"""Releases and assignments: each request that places a replica leaves its mark once, or not at all.

The requests go by the state that the asked node shows, which may be old: a conflict is a proper answer. A request
that ran twice would have two effects, or would tell its client "conflict" and have an effect all the same.
"""

from __future__ import annotations

from collections.abc import Callable

from consensus.ledger_entries import Assign, Entry, PutRelease, ScaleApp
from consensus.ledger_state import LedgerState
from consensus.records import MemberStatus, Release
from tests.sim.checkers.once import check_once
from tests.sim.workloads.workload import Workload, pick_weighted

APPS = ("web", "api")


class Apps(Workload):
    name = "apps"

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._marks = 0

    def act(self, client: str, done: Callable[[], None]) -> None:
        host = self.clients.any_host(self.rng)
        app = self.rng.choice(APPS)
        what = pick_weighted(self.rng, (("assign", 0.7), ("deploy", 0.15), ("scale", 0.15)))
        if what == "assign":
            self._marks += 1
            mark = f"m{self._marks}"
            operation = self.clients.begin(client, "assign", app, mark)
            self.clients.propose(host, operation, lambda state: place(state, app, mark, self._marks), done)
        elif what == "deploy":
            operation = self.clients.begin(client, "deploy", app)
            self.clients.propose(host, operation, lambda state: deploy(state, app), done)
        else:
            operation = self.clients.begin(client, "scale", app)
            self.clients.propose(host, operation, lambda state: ScaleApp(app, self._marks % 50), done)

    def check(self, final: LedgerState) -> None:
        check_once(self.clients.history.operations, [one.reason for one in final.assignments.values()])


def place(state: LedgerState, app: str, mark: str, turn: int) -> Entry | None:
    """The entry that puts one more replica somewhere, as a leader with this view would."""
    known = state.apps.get(app)
    nodes = [
        member.node_id
        for member in state.active_members().values()
        if member.status is MemberStatus.ACTIVE and member.node_id not in state.outs
    ]
    if known is None or not nodes:
        return None
    return Assign(app, known.current, sorted(nodes)[turn % len(nodes)], mark, known.next_replica)


def deploy(state: LedgerState, app: str) -> Entry:
    """The entry of a next release."""
    number = max((number for name, number in state.releases if name == app), default=0) + 1
    return PutRelease(Release(app, number, f"{number:064x}", 1000, b"", "", 0, ()), 2)
