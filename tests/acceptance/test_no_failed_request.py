"""Done when, line 6: no failed request, while replicas are replaced, taken away and killed with their node.

One load and one round of trouble; each test asks another question of what came of it. The load is mixed: besides
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

from tests.e2e.cluster import cluster
from tests.e2e.steady import APP, MANIFEST, MIXED, Outcome, Storm, run
from tests.e2e.steady_client import SteadyClient

NODES = 3
RATE = 60.0
PAUSE = 60

pytestmark = pytest.mark.deadline(180)


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    folder = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    folder.chmod(0o711)  # an app's own user passes through
    try:
        with cluster(folder / "mesh") as mesh:
            mesh.start(NODES)
            run(mesh.nodes[0], "deploy", "--manifest", str(MANIFEST))
            with SteadyClient(APP, mesh.nodes, RATE, MIXED) as client:
                storm = Storm(mesh, client, PAUSE)
                storm.round()
                client.stop()
                storm.bring_back()
                yield storm.outcome()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def test_what_may_be_done_twice_was_asked_of_another_replica(outcome: Outcome) -> None:
    assert outcome.retries, "no GET without a response was under way to the node that was killed"


def test_no_post_is_done_twice_and_none_served_was_not_done(outcome: Outcome) -> None:
    posts = {shot.request_id: shot for shot in outcome.shots if shot.wish.method == "POST"}
    assert len(posts) > 100
    assert max(outcome.took.values()) == 1
    assert all(outcome.took[request_id] == 1 for request_id, shot in posts.items() if shot.served)


def test_the_relays_counted_every_request(outcome: Outcome) -> None:
    assert outcome.requests == Counter(shot.node for shot in outcome.shots)
