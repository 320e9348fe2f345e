"""The next step of one app: which replicas go now, how many may come, and what is to be said of the release.

One rule serves rollouts, drains, moves and scaling alike. A replica is *good* if it is of the wanted release and may
stay where it is; the *others* have to go. With n wanted:

    start   at most  n + max_surge - live          new ones, as far as good ones are missing
    stop    at most  live - (n - max_unavailable) - (good ones that are not healthy yet)      of the others,
            the worst first, and a healthy one only if n - max_unavailable healthy ones remain without it

so the new one proves itself before an old one goes, and a release that never becomes healthy takes nothing away.

Source: Kubernetes' rolling update (`scaleDownOldReplicaSetsForRollingUpdate`, `cleanupUnhealthyReplicas`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from consensus.ledger_entries import SetApp
from consensus.records import App, ReleaseState
from mesh.names import NodeId
from scheduler.manifest import Manifest, Rollout
from scheduler.model import Condition, Progress, Replica

MOVES_AT_ONCE = 1
"""Replicas of one app that move at a time when nothing but their place is wrong."""


@dataclass(frozen=True, slots=True)
class Removal:
    replica: Replica
    reason: str
    makes_room: bool  # nothing replaces it yet: to be done only if a replacement has a place


@dataclass(frozen=True, slots=True)
class Step:
    remove: tuple[Removal, ...]
    missing: int  # good replicas that are wanted and not there
    budget: int  # replicas that may be live at once, less those that are: before any removal of this step


def wanted(app: App, manifest: Manifest) -> int:
    """How many replicas there should be; an exclusive app never has two, whatever was said."""
    return min(app.replicas, 1) if manifest.exclusive else app.replicas


def limits(manifest: Manifest, others: Sequence[Replica]) -> Rollout:
    """What this step may do: the manifest's limits, narrowed for a mere move."""
    rollout = manifest.rollout
    if manifest.exclusive:
        return replace(rollout, max_surge=0, max_unavailable=1)
    if others and all(replica.current for replica in others):
        return replace(
            rollout,
            max_surge=min(rollout.max_surge, MOVES_AT_ONCE),
            max_unavailable=min(rollout.max_unavailable, MOVES_AT_ONCE),
        )
    return rollout


def is_good(replica: Replica) -> bool:
    return replica.condition is not Condition.GONE and replica.current and not replica.leaving


def next_step(app: App, manifest: Manifest, replicas: Sequence[Replica], zones: Mapping[NodeId, str]) -> Step:
    """What may happen to an app now.

    Args:
        app: As the ledger has it.
        manifest: Of its current release.
        replicas: Every assignment of the app, judged.
        zones: The zone of each node, so that what is too many goes from the fullest first.
    """
    want = wanted(app, manifest)
    live = [replica for replica in replicas if replica.condition is not Condition.GONE]
    good = [replica for replica in live if is_good(replica)]
    others = [replica for replica in live if not is_good(replica)]
    rollout = limits(manifest, others)
    if want == 0:
        return Step(tuple(Removal(replica, "scaled to none", makes_room=False) for replica in live), 0, 0)
    count = _Count(live, floor=max(want - rollout.max_unavailable, 0))
    remove = _surplus(good, want, zones, count)
    staying = [replica for replica in good if replica not in {removal.replica for removal in remove}]
    remove += _outgoing(app, others, staying, want, count)
    return Step(tuple(remove), max(want - len(good), 0), want + rollout.max_surge - len(live))


class _Count:
    """Live and healthy replicas as removals go on."""

    def __init__(self, live: Sequence[Replica], floor: int) -> None:
        self.live = len(live)
        self.healthy = sum(replica.condition is Condition.HEALTHY for replica in live)
        self.floor = floor

    def may_lose(self, replica: Replica) -> bool:
        """One that certainly serves nobody may always go; one that does, or may, only above the floor."""
        match replica.condition:
            case Condition.HEALTHY:
                return self.healthy - 1 >= self.floor
            case Condition.UNSEEN:
                return self.healthy >= self.floor
        return True

    def lose(self, replica: Replica) -> None:
        self.live -= 1
        self.healthy -= replica.condition is Condition.HEALTHY


def _surplus(good: Sequence[Replica], want: int, zones: Mapping[NodeId, str], count: _Count) -> list[Removal]:
    """Scaling down: the least good one of those left, again and again."""
    left = list(good)
    remove: list[Removal] = []
    while len(left) > want:
        in_zone = Counter(zones.get(replica.assignment.node, "") for replica in left)
        on_node = Counter(replica.assignment.node for replica in left)
        worst = min(
            left,
            key=lambda replica: (
                replica.condition.value,
                -in_zone[zones.get(replica.assignment.node, "")],
                -on_node[replica.assignment.node],
                -replica.assignment.index,
            ),
        )
        if not count.may_lose(worst):
            break
        count.lose(worst)
        left.remove(worst)
        remove.append(Removal(worst, f"{want} wanted", makes_room=False))
    return remove


def _outgoing(
    app: App, others: Sequence[Replica], staying: Sequence[Replica], want: int, count: _Count
) -> list[Removal]:
    unready = sum(replica.condition is not Condition.HEALTHY for replica in staying)
    remove = []
    for replica in sorted(others, key=lambda each: (each.condition.value, each.current, each.assignment.index)):
        if count.live - 1 < count.floor + unready or not count.may_lose(replica):
            continue
        count.lose(replica)
        reason = replica.leaving if replica.current else f"release {app.current} takes its place"
        remove.append(Removal(replica, reason, makes_room=len(staying) < want and count.live < want))
    return remove


def verdict(
    app: App,
    manifest: Manifest,
    replicas: Sequence[Replica],
    *,
    progress: Progress | None,
    can_return: bool,
    now: float,
    why_not: str,
) -> SetApp | None:
    """What is to be said of the release now: stable, failed, rolled back, or nothing.

    Args:
        app: As the ledger has it.
        manifest: Of its current release.
        replicas: Every assignment of the app, judged.
        progress: The rollout's last step forward; None when it is not rolling.
        can_return: The last stable release is another one and still there.
        now: The clock that `progress` was taken by.
        why_not: What keeps the replicas from being healthy, for the reason.
    """
    if app.state is not ReleaseState.STABLE and is_complete(app, manifest, replicas):
        reason = app.reason
        if app.state is ReleaseState.FAILED and app.previous_stable != app.current:
            reason = f"became healthy after its deadline ({reason})"
        return SetApp(app.current, replace(app, state=ReleaseState.STABLE, reason=reason))
    if app.state is not ReleaseState.ROLLING or progress is None or now < deadline(manifest, progress):
        return None
    healthy = _healthy_current(replicas)
    want = wanted(app, manifest)
    patience_s = manifest.rollout.deadline_s
    reason = f"release {app.current} failed: {healthy} of {want} healthy, no progress for {patience_s:g} s"
    if why_not:
        reason += f"; {why_not}"
    failed = replace(app, state=ReleaseState.FAILED, reason=reason[:1000])
    if manifest.rollout.rollback and can_return:
        failed = replace(failed, current=app.previous_stable)
    return SetApp(app.current, failed)


def deadline(manifest: Manifest, progress: Progress) -> float:
    return progress.at + manifest.rollout.deadline_s


def is_complete(app: App, manifest: Manifest, replicas: Sequence[Replica]) -> bool:
    """Every replica that is wanted is healthy, and no live one is of another release.

    One that waits on a draining node counts: where it runs says nothing of the release.
    """
    live = [replica for replica in replicas if replica.condition is not Condition.GONE]
    return all(replica.current for replica in live) and _healthy_current(live) >= wanted(app, manifest)


def _healthy_current(replicas: Sequence[Replica]) -> int:
    return sum(replica.current and replica.condition is Condition.HEALTHY for replica in replicas)
