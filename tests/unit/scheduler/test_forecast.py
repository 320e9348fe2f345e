"""`--plan` against what then happens: the same steps in the same order, to the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.ledger_entries import Assign, Unassign
from consensus.records import ReleaseState
from scheduler.forecast import forecast
from scheduler.manifest import Manifest, Rollout
from tests.unit.scheduler.cluster import Cluster
from tests.unit.scheduler.test_reconcile import WEB, cluster_of, running


def what_happens(cluster: Cluster) -> list[str]:
    """Each start and stop until all is settled, in the words of a plan."""
    done = []
    for _ in range(100):
        replicas = dict(cluster.facts.assignments)
        plan = cluster.act()
        for entry in plan.entries:
            match entry:
                case Assign(release=release, node=node):
                    done.append(f"+ a replica of release {release} on {cluster.facts.members[node].name}")
                case Unassign(replica_id=replica_id):
                    known = replicas[replica_id]
                    where = cluster.facts.members[known.node].name
                    done.append(f"- {replica_id} (release {known.release}) on {where}")
        cluster.become_healthy()
        if not plan.entries and not cluster.plan().entries:
            return done
        cluster.now += 1
    raise AssertionError("never settled")


@pytest.mark.parametrize(
    "manifest",
    [
        WEB,
        replace(WEB, rollout=Rollout(max_unavailable=1, max_surge=0)),
        replace(WEB, replicas=5, rollout=Rollout(max_unavailable=2, max_surge=2)),
        replace(WEB, replicas=1),
        replace(WEB, replicas=0),
    ],
)
def test_a_rollout_goes_as_the_plan_said(manifest: Manifest) -> None:
    cluster = running(manifest)
    cluster.deploy(manifest)
    told = forecast(cluster.view(), "web")
    assert [f"{step.sign} {step.text}" for step in told.steps] == what_happens(cluster)
    assert cluster.state("web") is ReleaseState.STABLE


def test_what_no_node_may_take_is_told_and_nothing_else_happens() -> None:
    cluster = running()
    cluster.deploy(replace(WEB, constraints=(("gpu", "yes"),)))
    told = forecast(cluster.view(), "web")
    assert told.steps == ()
    assert "has no label gpu=yes" in "\n".join(told.reasons)


def test_other_apps_are_left_out_of_it() -> None:
    cluster = cluster_of(3)
    cluster.deploy(replace(WEB, name="other"))
    cluster.deploy(WEB)
    told = forecast(cluster.view(), "web")
    assert len(told.steps) == 3
    assert all("other" not in reason for reason in told.reasons)
