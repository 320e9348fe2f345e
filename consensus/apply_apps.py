"""Applying entries about apps, their releases and where their replicas belong (rule A1)."""

from __future__ import annotations

from dataclasses import replace

from consensus.ledger_entries import Assign, PutRelease, RemoveApp, Result, ScaleApp, SetApp, Unassign
from consensus.ledger_facts import RELEASES_KEPT, Context, Facts, conflict, done, missing, refused, usage
from consensus.records import App, Assignment, MemberStatus, ReleaseState

APPS_MAX = 1_000
REPLICAS_MAX = 1_000


def put_release(facts: Facts, entry: PutRelease, context: Context) -> Result:
    release = entry.release
    app = facts.apps.get(release.app)
    newest = max((number for name, number in facts.releases if name == release.app), default=0)
    if release.number != newest + 1:
        return conflict(f"{release.app} was deployed meanwhile", f"its newest release is {newest}")
    if not 0 <= entry.replicas <= REPLICAS_MAX:
        return usage(f"an app has 0 to {REPLICAS_MAX} replicas")
    if app is None and any(assignment.app == release.app for assignment in facts.assignments.values()):
        return conflict(f"{release.app} is still being removed", "its replicas have not all been taken away")
    if app is None and len(facts.apps) >= APPS_MAX:
        return refused("limit.apps", f"the mesh has {APPS_MAX} apps")
    facts.releases[release.app, release.number] = replace(release, created_ms=context.time_ms)
    facts.apps[release.app] = App(
        name=release.app,
        current=release.number,
        previous_stable=_last_stable(app),
        replicas=entry.replicas,
        state=ReleaseState.ROLLING,
        reason="",
        changed_ms=context.time_ms,
        next_replica=1 if app is None else app.next_replica,
    )
    _drop_old_releases(facts, release.app)
    return done(str(release.number))


def set_app(facts: Facts, entry: SetApp, context: Context) -> Result:
    app = facts.apps.get(entry.app.name)
    if app is None:
        return missing(f"no app {entry.app.name}")
    if app.current != entry.expected_current:
        return conflict(f"{app.name} was changed meanwhile", f"its current release is {app.current}")
    if (app.name, entry.app.current) not in facts.releases:
        return missing(f"{app.name} has no release {entry.app.current}")
    changed_ms = app.changed_ms if app.current == entry.app.current else context.time_ms
    facts.apps[app.name] = replace(
        entry.app, next_replica=app.next_replica, replicas=app.replicas, changed_ms=changed_ms
    )
    return done(str(entry.app.current))


def scale_app(facts: Facts, entry: ScaleApp, context: Context) -> Result:
    app = facts.apps.get(entry.app)
    if app is None:
        return missing(f"no app {entry.app}")
    if not 0 <= entry.replicas <= REPLICAS_MAX:
        return usage(f"an app has 0 to {REPLICAS_MAX} replicas")
    facts.apps[app.name] = replace(app, replicas=entry.replicas)
    return done(str(entry.replicas))


def remove_app(facts: Facts, entry: RemoveApp, context: Context) -> Result:
    """The app and its releases go; its assignments are taken away by the reconciler, each on its node."""
    if facts.apps.pop(entry.name, None) is None:
        return missing(f"no app {entry.name}")
    for key in [key for key in facts.releases if key[0] == entry.name]:
        del facts.releases[key]
    return done()


def assign(facts: Facts, entry: Assign, context: Context) -> Result:
    app = facts.apps.get(entry.app)
    if app is None or (entry.app, entry.release) not in facts.releases:
        return conflict(f"{entry.app} was removed or changed meanwhile", f"no release {entry.release}")
    if entry.number != app.next_replica:
        return conflict(f"{entry.app} was placed meanwhile", f"its next replica is {app.next_replica}")
    member = facts.active(entry.node)
    if member is None or member.status is MemberStatus.DRAINING or entry.node in facts.outs:
        return conflict("that node takes nothing now", entry.node)
    replica_id = f"{app.name}-{app.next_replica}"
    facts.apps[app.name] = replace(app, next_replica=app.next_replica + 1)
    facts.assignments[replica_id] = Assignment(
        replica_id=replica_id,
        app=entry.app,
        release=entry.release,
        node=entry.node,
        index=context.index,
        created_ms=context.time_ms,
        reason=entry.reason,
    )
    return done(replica_id)


def unassign(facts: Facts, entry: Unassign, context: Context) -> Result:
    assignment = facts.assignments.get(entry.replica_id)
    if assignment is None:
        return missing(f"no replica {entry.replica_id}")
    if assignment.index != entry.index:
        return conflict(f"{entry.replica_id} was assigned anew", f"at index {assignment.index}")
    del facts.assignments[entry.replica_id]
    return done()


def _last_stable(app: App | None) -> int:
    if app is None:
        return 0
    return app.current if app.state is ReleaseState.STABLE else app.previous_stable


def _drop_old_releases(facts: Facts, name: str) -> None:
    app = facts.apps[name]
    used = {assignment.release for assignment in facts.assignments.values() if assignment.app == name}
    numbers = sorted((number for owner, number in facts.releases if owner == name), reverse=True)
    for number in numbers[RELEASES_KEPT:]:
        if number not in used and number not in (app.current, app.previous_stable):
            del facts.releases[name, number]
