"""What is wanted against what is: the ledger entries that bring the two together, with a reason for each.

`reconcile` is pure: the same view gives the same plan, on the leader (which proposes it), for `--plan` (which shows
it) and in tests. It acts in small steps and looks again: every entry of a plan is right by itself, so that a plan
which ends half-way, or lands on a newer state and is refused there, leaves nothing to clean up (fault O2).

What it never does: move anything because gossip calls a node down (only the ledger's out counts), start an exclusive
replica while another may run (rule A1), take away a healthy replica that is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from consensus.ledger_entries import Assign, Entry, Unassign
from consensus.records import App, Assignment, ReleaseState
from mesh.errors import FreecloudError
from mesh.names import NodeId
from scheduler.filters import STAYING, Wish, refusal
from scheduler.manifest import Manifest, decode_manifest
from scheduler.model import (
    EXCLUSIVE_WAIT_S,
    ClusterView,
    Condition,
    Plan,
    Reason,
    Replica,
    condition_of,
)
from scheduler.placement import Landscape, Placed, place
from scheduler.rollout import Removal, Step, deadline, is_good, next_step, verdict, wanted
from scheduler.sightings import TROUBLE_RESTARTS

ENTRIES_MAX = 64
"""Entries of one plan: a batch of the log. What is left comes with the next look, on a newer view."""

DETAILS_MAX = 3


def reconcile(view: ClusterView) -> Plan:
    """What to propose on this view, in this order."""
    draft = _Draft(view)
    manifests = _manifests(view, draft)
    draft.landscape = Landscape(view, {key: manifest.resources for key, manifest in manifests.items()})
    by_app: dict[str, list[Assignment]] = {}
    for _, assignment in sorted(view.assignments.items()):
        by_app.setdefault(assignment.app, []).append(assignment)
    for name, assignments in by_app.items():
        if name not in view.apps:
            for assignment in assignments:
                draft.unassign(assignment, "the app was removed")
    for name, app in sorted(view.apps.items()):
        manifest = manifests.get((name, app.current))
        if manifest is not None and len(draft.entries) < ENTRIES_MAX:
            _AppPlan(draft, app, manifest, by_app.get(name, [])).make()
    if len(draft.entries) >= ENTRIES_MAX:
        draft.look_again_in(0)
    return Plan(tuple(draft.entries[:ENTRIES_MAX]), tuple(draft.reasons), draft.next_check_s)


@dataclass(slots=True)
class _Draft:
    """A plan in the making; lives within one call of `reconcile`."""

    view: ClusterView
    landscape: Landscape = field(init=False)
    entries: list[Entry] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    next_check_s: float = inf

    def unassign(self, assignment: Assignment, reason: str) -> None:
        self.entries.append(Unassign(assignment.replica_id, assignment.index, reason))
        where = self.view.name_of(assignment.node)
        self.reasons.append(Reason(assignment.app, f"stop {assignment.replica_id} on {where}: {reason}"))

    def note(self, app: str, text: str) -> None:
        self.reasons.append(Reason(app, text))

    def look_again_in(self, seconds: float) -> None:
        self.next_check_s = min(self.next_check_s, max(seconds, 0))


def _manifests(view: ClusterView, draft: _Draft) -> Mapping[tuple[str, int], Manifest]:
    found = {}
    for key, release in view.releases.items():
        try:
            found[key] = decode_manifest(release.manifest)
        except FreecloudError as error:  # a release of a newer program: left alone, and said
            draft.note(key[0], f"release {key[1]} is not understood by this node: {error.what}")
    return found


class _AppPlan:
    """One app within a draft."""

    def __init__(self, draft: _Draft, app: App, manifest: Manifest, assignments: list[Assignment]) -> None:
        self._draft = draft
        self._view = draft.view
        self._landscape = draft.landscape
        self._app = app
        self._manifest = manifest
        seen = self._view.seen
        troubled = (node for name, number, node in seen.trouble if (name, number) == (app.name, app.current))
        release = self._view.releases[app.name, app.current]
        self._wish = Wish(app.name, app.current, release.bundle, manifest, frozenset(troubled))
        self._replicas = [self._judged(assignment) for assignment in assignments]
        self._entries_before = len(draft.entries)
        self._placed = 0
        self._why_not = ""

    def make(self) -> None:
        good = [replica for replica in self._replicas if is_good(replica)]
        self._landscape.set_staying(self._app.name, [replica.assignment for replica in good])
        step = next_step(self._app, self._manifest, self._replicas, self._landscape.zones)
        removed = self._remove(step)
        waits = self._exclusive_waits()
        if not waits:
            self._place_missing(step, removed)
        if not waits:
            self._give_up_gone(step)
        self._say_verdict()

    def _judged(self, assignment: Assignment) -> Replica:
        current = assignment.release == self._app.current
        condition = condition_of(self._view, assignment)
        return Replica(assignment, condition, current, self._leaving(assignment, condition))

    def _leaving(self, assignment: Assignment, condition: Condition) -> str:
        room = self._landscape.room(assignment.node)
        if room is None or condition is Condition.GONE:
            return ""
        reason = refusal(room, self._wish, STAYING)
        if reason is not None:
            return f"{room.member.name} {reason}"
        # By its restarts, not by how it is at this moment: one that comes up and crashes again would else be taken
        # for good and for bad in turns, and its replacement with it.
        report = self._view.report(assignment)
        keeps_failing = report is not None and (condition is Condition.FAILED or report.restarts >= TROUBLE_RESTARTS)
        if keeps_failing and assignment.node in self._wish.troubled:
            return f"it keeps failing on {room.member.name}"
        return ""

    def _remove(self, step: Step) -> int:
        """Take away what may go; of what would leave a gap, only what can be replaced."""
        removed = 0
        reserved: list[NodeId] = []
        for removal in step.remove:
            self._landscape_without(removal.replica)
            if removal.makes_room:
                node = self._room_for_successor(removal)
                if node is None:
                    self._landscape_without(removal.replica, sign=1)
                    continue
                self._landscape.put(node, self._wish)
                reserved.append(node)
            self._draft.unassign(removal.replica.assignment, removal.reason)
            removed += 1
        for node in reserved:
            self._landscape.put(node, self._wish, sign=-1)
        return removed

    def _landscape_without(self, replica: Replica, sign: int = -1) -> None:
        assignment = replica.assignment
        self._landscape.add(assignment.node, assignment.app, assignment.release, sign)
        room = self._landscape.room(assignment.node)
        if room is not None and is_good(replica):
            room.of_app[assignment.app] = room.of_app.get(assignment.app, 0) + sign

    def _room_for_successor(self, removal: Removal) -> NodeId | None:
        answer = place(self._landscape, self._wish)
        if isinstance(answer, Placed):
            return answer.node
        self._why_not = str(answer)
        name = removal.replica.assignment.replica_id
        self._draft.note(self._app.name, f"{name} stays for now, nothing could take its place: {answer}")
        return None

    def _exclusive_waits(self) -> bool:
        """True while another replica of an exclusive app may still run somewhere."""
        if not self._manifest.exclusive:
            return False
        if any(replica.condition is not Condition.GONE for replica in self._replicas):
            return True
        seen, now = self._view.seen, self._view.now
        ends = [seen.led_since, seen.vacated.get(self._app.name, seen.led_since)]
        for replica in self._replicas:
            gone = seen.gone.get(replica.assignment.node)
            ends.append(now if gone is None else gone.at)
        left_s = max(ends) + EXCLUSIVE_WAIT_S - now
        if left_s <= 0:
            return False
        if wanted(self._app, self._manifest):
            self._draft.note(self._app.name, f"waits {left_s:.0f} s more: an earlier replica may still run (exclusive)")
        self._draft.look_again_in(left_s)
        return True

    def _place_missing(self, step: Step, removed: int) -> None:
        number = self._app.next_replica
        for _ in range(min(step.missing, step.budget + removed)):
            if len(self._draft.entries) >= ENTRIES_MAX:
                return
            answer = place(self._landscape, self._wish)
            if not isinstance(answer, Placed):
                self._why_not = str(answer)
                self._draft.note(self._app.name, f"{step.missing - self._placed} not placed: {answer}")
                return
            entry = Assign(self._app.name, self._app.current, answer.node, answer.why, number + self._placed)
            self._draft.entries.append(entry)
            where = self._view.name_of(answer.node)
            self._draft.note(self._app.name, f"start release {self._app.current} on {where}: {answer.why}")
            self._landscape.put(answer.node, self._wish)
            self._placed += 1

    def _give_up_gone(self, step: Step) -> None:
        """Take the replicas of nodes that are out from them, unless they could not be replaced.

        One that nothing replaces keeps its place: it serves again the moment its node is back.
        """
        gone = [replica for replica in self._replicas if replica.condition is Condition.GONE]
        kept = step.missing - self._placed
        unassigned = []
        for replica in sorted(gone, key=lambda each: (not each.current, each.assignment.index)):
            member = self._view.members.get(replica.assignment.node)
            comes_back = replica.current and member is not None and replica.assignment.node in self._view.outs
            if comes_back and kept > 0:
                kept -= 1
                continue
            unassigned.append(replica)
        for replica in unassigned:
            out = self._view.outs.get(replica.assignment.node)
            reason = f"its node is out: {out.reason}" if out is not None else "its node is no member any more"
            self._draft.unassign(replica.assignment, reason)
        self._unassign_first(len(unassigned))

    def _unassign_first(self, count: int) -> None:
        """Put the last `count` entries before this app's placements: should the plan end early, one replica is
        missing for a moment instead of one too many for as long as the node's return may take."""
        entries = self._draft.entries
        start = len(entries) - count - self._placed
        assigns, unassigns = entries[start : start + self._placed], entries[start + self._placed :]
        entries[start:] = unassigns + assigns

    def _say_verdict(self) -> None:
        app, view = self._app, self._view
        progress = view.seen.progress.get(app.name)
        said = verdict(
            app,
            self._manifest,
            self._replicas,
            progress=progress,
            can_return=app.previous_stable not in (0, app.current) and (app.name, app.previous_stable) in view.releases,
            now=view.now,
            why_not=self._why_not or self._details(),
        )
        if said is not None:
            if said.app.current != app.current:
                del self._draft.entries[self._entries_before :]  # whatever was to become of the failed release
            self._draft.entries.append(said)
            self._draft.note(app.name, _verdict_text(app, said.app))
        elif app.state is ReleaseState.ROLLING and progress is not None:
            self._draft.look_again_in(deadline(self._manifest, progress) - view.now)

    def _details(self) -> str:
        """What the nodes say of replicas of the current release that are not healthy."""
        found = []
        for replica in self._replicas:
            if not replica.current or replica.condition is Condition.HEALTHY:
                continue
            report = self._view.report(replica.assignment)
            said = report.detail or report.health.value if report is not None else "nothing heard of it yet"
            found.append(f"{replica.assignment.replica_id} on {self._view.name_of(replica.assignment.node)}: {said}")
        return "; ".join(found[:DETAILS_MAX])


def _verdict_text(before: App, after: App) -> str:
    if after.current != before.current:
        return f"return to release {after.current}: {after.reason}"
    if after.state is ReleaseState.STABLE:
        return f"release {after.current} is stable"
    return after.reason
