"""Done when, line 6: no failed request, while replicas are replaced, taken away and killed with their node.

One load and one round of trouble; most tests ask a question of what came of it. The load is mixed: besides
plain GETs, answers that are struck half-way and requests that must not be done twice. The full size, ≥ 5,000 GETs at
100 a second among five nodes, is `python -m bench.no_failed_request`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, cluster, wait_until
from tests.e2e.steady import APP, GETS, MANIFEST, MIXED, SLOW, Outcome, Storm, copy_with, healthy_on, run
from tests.e2e.steady_client import SteadyClient

NODES = 3
RATE = 60.0
PAUSE = 60

pytestmark = pytest.mark.deadline(180)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    folder.chmod(0o711)  # an app's own user passes through
    try:
        with cluster(folder / "mesh") as made:
            made.start(NODES)
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def outcome(mesh: Cluster) -> Outcome:
    run(mesh.nodes[0], "deploy", "--manifest", str(MANIFEST))
    with SteadyClient(APP, mesh.nodes, RATE, MIXED) as client:
        storm = Storm(mesh, client, PAUSE)
        storm.round()
        client.stop()
        storm.bring_back()
        return storm.outcome()


def test_no_get_fails_whose_response_had_not_begun(outcome: Outcome) -> None:
    assert len(outcome.shots) > 600
    broken = outcome.broken_promises()
    assert not broken, "\n".join(f"{shot}\n  {outcome.failed.get(shot.request_id)}" for shot in broken)


def test_every_other_failure_stands_in_a_relays_log_and_nothing_else_does(outcome: Outcome) -> None:
    unserved = {shot.request_id: shot for shot in outcome.unserved()}
    assert unserved, "nothing was under way to the node that was killed"
    assert set(outcome.failed) == set(unserved), [str(unserved.get(name, name)) for name in outcome.unaccounted()]
    for request_id, shot in unserved.items():
        account = outcome.failed[request_id]
        told = (account["method"], account["end"], account["status"])
        assert told == (shot.wish.method, "broken" if shot.torn else "no-answer", shot.status), account
        assert account["detail"]
        assert account["replica"].startswith(APP)


def test_a_replica_that_is_replaced_or_taken_away_finishes_what_it_has_begun(outcome: Outcome) -> None:
    torn = outcome.gracelessly_ended()
    assert not torn, "\n".join(f"{shot}\n  {outcome.failed.get(shot.request_id)}" for shot in torn)


def test_what_may_be_done_twice_was_asked_of_another_replica(outcome: Outcome) -> None:
    assert outcome.retries, "no GET without a response was under way to the node that was killed"


def test_no_post_is_done_twice_and_none_served_was_not_done(outcome: Outcome) -> None:
    posts = {shot.request_id: shot for shot in outcome.shots if shot.wish.method == "POST"}
    assert len(posts) > 100
    assert max(outcome.took.values()) == 1
    assert all(outcome.took[request_id] == 1 for request_id, shot in posts.items() if shot.served)


def test_the_relays_counted_every_request(outcome: Outcome) -> None:
    assert outcome.requests == Counter(shot.node for shot in outcome.shots)


def test_no_get_fails_without_a_response_when_a_node_falls_silent(mesh: Cluster) -> None:
    run(mesh.nodes[0], "deploy", "--manifest", str(MANIFEST))
    with SteadyClient(APP, mesh.nodes, RATE, SLOW) as client:
        Storm(mesh, client, PAUSE).silent_round()
        failed = [str(shot) for shot in client.stop() if not shot.served]
    assert not failed, "\n".join(failed)


def test_the_only_replica_is_updated_and_moved_without_a_failed_request(mesh: Cluster, tmp_path: Path) -> None:
    manifest = copy_with(tmp_path, replicas=1)
    run(mesh.nodes[0], "deploy", "--manifest", manifest)
    with SteadyClient(APP, mesh.nodes, RATE, GETS) as client:
        for node in mesh.nodes:
            client.go_on(PAUSE)
            run(node, "deploy", "--manifest", manifest)
        (holder,) = wait_until("one replica", lambda: healthy_on(mesh.nodes[0]))
        run(mesh.nodes[0], "nodes", "drain", holder)
        wait_until("it has moved", lambda: healthy_on(mesh.nodes[0]) not in ([], [holder]))
        client.go_on(PAUSE)
        failed = [str(shot) for shot in client.stop() if not shot.served]
    assert not failed, "\n".join(failed)
