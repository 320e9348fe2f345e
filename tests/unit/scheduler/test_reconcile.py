"""What is planned for a cluster that one can think through."""

from __future__ import annotations

from dataclasses import replace

from consensus.ledger_entries import RemoveApp, RemoveMember, ScaleApp
from consensus.records import ReleaseState
from gossip.members import MemberState
from gossip.record import ReplicaHealth
from scheduler.manifest import Manifest, Resources, Rollout, Spread
from scheduler.model import LONG_SEEN
from scheduler.reconcile import reconcile
from tests.unit.scheduler.cluster import GIB, Cluster, Machine, assigns, member, unassigns

WEB = Manifest("web", "python app.py", replicas=3)


def cluster_of(count: int, zones: int = 0) -> Cluster:
    cluster = Cluster()
    for number in range(1, count + 1):
        cluster.join(member(number, zone=f"z{number % zones}" if zones else ""))
    return cluster


def running(manifest: Manifest = WEB, count: int = 4, zones: int = 0) -> Cluster:
    cluster = cluster_of(count, zones)
    cluster.deploy(manifest)
    cluster.settle()
    assert cluster.state(manifest.name) is ReleaseState.STABLE
    return cluster


def texts(cluster: Cluster) -> str:
    return "\n".join(reason.text for reason in cluster.plan().reasons)


def test_a_first_deploy_places_every_replica_at_once_on_nodes_of_their_own() -> None:
    cluster = cluster_of(3)
    cluster.deploy(WEB)
    plan = cluster.act()
    assert len({entry.node for entry in assigns(plan)}) == 3
    assert cluster.state("web") is ReleaseState.ROLLING
    cluster.become_healthy()
    cluster.act()
    assert cluster.state("web") is ReleaseState.STABLE
    assert not cluster.plan().entries


def test_the_same_view_gives_the_same_plan() -> None:
    cluster = cluster_of(5, zones=2)
    cluster.deploy(WEB)
    assert cluster.plan() == cluster.plan()


def test_replicas_stand_in_as_many_zones_as_there_are() -> None:
    cluster = running(replace(WEB, replicas=6), count=9, zones=3)
    assert cluster.zones("web") == {"z0": 2, "z1": 2, "z2": 2}


def test_spread_comes_before_free_memory() -> None:
    cluster = Cluster()
    cluster.join(member(1, zone="a"), Machine(memory_bytes=64 * GIB))
    cluster.join(member(2, zone="a"), Machine(memory_bytes=64 * GIB))
    cluster.join(member(3, zone="b"), Machine(memory_bytes=1 * GIB))
    cluster.deploy(replace(WEB, replicas=2))
    cluster.settle()
    assert cluster.zones("web") == {"a": 1, "b": 1}


def test_without_spread_the_emptiest_node_is_taken_again() -> None:
    cluster = Cluster()
    big = cluster.join(member(1), Machine(memory_bytes=640 * GIB, cpus=64))
    cluster.join(member(2), Machine(memory_bytes=1 * GIB, load_percent=90))
    cluster.deploy(replace(WEB, replicas=2, spread=Spread.NONE))
    cluster.settle()
    assert len(cluster.on(big)) == 2


def test_a_replica_that_fits_nowhere_is_explained_node_by_node() -> None:
    cluster = Cluster()
    cluster.join(member(1), Machine(takes_apps=False))
    cluster.join(member(2), Machine(memory_bytes=GIB))
    cluster.join(member(3, labels={"disk": "hdd"}))
    cluster.join(member(4), Machine(cpus=0.1))
    cluster.join(member(5), Machine(state=MemberState.DOWN))
    cluster.join(member(6, trusted=False))
    cluster.join(member(7), Machine(told=False))
    manifest = replace(WEB, resources=Resources(1.0, 2 * GIB), constraints=(("disk", "ssd"),))
    cluster.deploy(manifest)
    plan = cluster.plan()
    assert not plan.entries
    said = plan.reasons[-1].text
    assert said.startswith("3 not placed:")
    assert "n1 takes no apps" in said
    assert "n3 has disk=hdd, not ssd" in said
    assert "n5 is down" in said
    assert "n6 is not trusted" in said
    assert "n7 has not told its capacity yet" in said
    assert "2 nodes: has no label disk=ssd" in said
    cluster.label(list(cluster.machines)[1], {"disk": "ssd"})
    cluster.label(list(cluster.machines)[3], {"disk": "ssd"})
    said = cluster.plan().reasons[-1].text
    assert "n2 has 1Gi of memory left, 2Gi wanted" in said
    assert "n4 has 0.1 of 0.1 cpus left, 1 wanted" in said


def test_what_is_assigned_counts_against_capacity_before_it_runs() -> None:
    cluster = Cluster()
    cluster.join(member(1), Machine(memory_bytes=GIB))
    cluster.deploy(replace(WEB, replicas=4, resources=Resources(0.1, 300 * 1024**2)))
    assert len(assigns(cluster.act())) == 3


def test_an_untrusted_node_takes_what_allows_it() -> None:
    cluster = Cluster()
    node = cluster.join(member(1, trusted=False))
    cluster.deploy(replace(WEB, replicas=1, untrusted=True))
    cluster.settle()
    assert len(cluster.on(node)) == 1


def test_down_moves_nothing_and_out_moves_what_ran_there() -> None:
    cluster = running()
    node = cluster.of("web")[0].node
    cluster.down(node)
    assert not cluster.plan().entries
    cluster.out(node)
    plan = cluster.act()
    assert len(assigns(plan)) == 1
    assert len(unassigns(plan)) == 1
    assert plan.entries[0] == unassigns(plan)[0]
    cluster.settle()
    assert len(cluster.healthy("web")) == 3


def test_a_replica_that_cannot_be_replaced_waits_for_its_node() -> None:
    cluster = running(replace(WEB, replicas=2), count=2)
    node = cluster.of("web")[0].node
    cluster.machines[cluster.of("web")[1].node].takes_apps = False
    cluster.out(node)
    assert not cluster.plan().entries
    cluster.back(node)
    assert not cluster.plan().entries


def test_a_removed_member_loses_its_replicas_even_if_nothing_can_replace_them() -> None:
    cluster = running(replace(WEB, replicas=2), count=2)
    for machine in cluster.machines.values():
        machine.takes_apps = False
    assert cluster.say(RemoveMember(cluster.of("web")[0].node, ""))
    assert len(unassigns(cluster.act())) == 1


def test_a_rollout_starts_a_new_one_first_and_waits_until_it_is_healthy() -> None:
    cluster = running()
    cluster.deploy(WEB)
    plan = cluster.act()
    assert (len(assigns(plan)), len(unassigns(plan))) == (1, 0)
    assert not cluster.plan().entries
    cluster.become_healthy()
    plan = cluster.act()
    assert (len(assigns(plan)), len(unassigns(plan))) == (1, 1)
    cluster.settle()
    assert {assignment.release for assignment in cluster.of("web")} == {2}
    assert cluster.state("web") is ReleaseState.STABLE
    assert cluster.facts.apps["web"].previous_stable == 1


def test_a_rollout_without_surge_stops_one_first_but_only_if_it_can_be_replaced() -> None:
    manifest = replace(WEB, rollout=Rollout(max_unavailable=1, max_surge=0), resources=Resources(0.1, GIB))
    cluster = Cluster()
    for number in range(1, 4):
        cluster.join(member(number), Machine(memory_bytes=GIB))
    cluster.deploy(manifest)
    cluster.settle()
    cluster.deploy(manifest)
    plan = cluster.act()
    assert (len(assigns(plan)), len(unassigns(plan))) == (1, 1)
    cluster.settle()
    cluster.deploy(replace(manifest, resources=Resources(0.1, 2 * GIB)))
    plan = cluster.plan()
    assert not plan.entries
    assert "stays for now, nothing could take its place" in plan.reasons[0].text


def test_a_release_that_never_becomes_healthy_is_rolled_back_and_took_nothing_away() -> None:
    cluster = running()
    before = {assignment.replica_id for assignment in cluster.of("web")}
    release = cluster.deploy(WEB)
    cluster.broken.add(("web", release))
    cluster.act()
    cluster.become_healthy()
    plan = cluster.plan()
    assert not plan.entries
    assert plan.next_check_s == 60
    cluster.now += 60
    cluster.act()
    app = cluster.facts.apps["web"]
    assert (app.current, app.state) == (1, ReleaseState.FAILED)
    assert app.reason.startswith("release 2 failed: 0 of 3 healthy, no progress for 60 s; web-4 on n")
    cluster.settle()
    app = cluster.facts.apps["web"]
    assert (app.current, app.state) == (1, ReleaseState.STABLE)
    assert app.reason.startswith("release 2 failed")
    assert {assignment.replica_id for assignment in cluster.of("web")} == before


def test_a_rollout_over_a_release_that_never_worked_frees_its_places_one_by_one() -> None:
    cluster = cluster_of(4)
    cluster.broken.add(("web", cluster.deploy(WEB)))
    cluster.act()
    cluster.become_healthy()
    cluster.deploy(WEB)
    plan = cluster.act()
    assert (len(assigns(plan)), len(unassigns(plan))) == (1, 0)
    cluster.settle()
    assert {assignment.release for assignment in cluster.healthy("web")} == {2}


def test_progress_gives_a_large_rollout_its_time() -> None:
    cluster = running(replace(WEB, replicas=8), count=8)
    cluster.deploy(replace(WEB, replicas=8))
    for _ in range(9):
        cluster.act()
        cluster.become_healthy()
        cluster.now += 50
    cluster.settle()
    assert cluster.facts.apps["web"].current == 2


def test_a_first_release_that_fails_stays_and_may_still_recover() -> None:
    cluster = cluster_of(3)
    cluster.deploy(WEB)
    cluster.broken.add(("web", 1))
    cluster.act()
    cluster.become_healthy()
    cluster.act()
    cluster.now += 61
    cluster.act()
    app = cluster.facts.apps["web"]
    assert (app.current, app.state) == (1, ReleaseState.FAILED)
    assert len(cluster.of("web")) == 3
    assert not cluster.plan().entries
    cluster.broken.clear()
    cluster.settle()
    assert cluster.state("web") is ReleaseState.STABLE


def test_a_failed_release_without_rollback_keeps_what_served() -> None:
    cluster = running()
    release = cluster.deploy(replace(WEB, rollout=Rollout(rollback=False)))
    cluster.broken.add(("web", release))
    for _ in range(5):
        cluster.act()
        cluster.become_healthy()
        cluster.now += 61
    app = cluster.facts.apps["web"]
    assert (app.current, app.state) == (release, ReleaseState.FAILED)
    assert len(cluster.healthy("web")) == 3


def test_a_wall_clock_step_rolls_nothing_back() -> None:
    cluster = running()
    cluster.deploy(WEB)
    cluster.act()
    app = cluster.facts.apps["web"]
    cluster.facts.apps["web"] = replace(app, changed_ms=app.changed_ms - 3_600_000)
    assert not cluster.plan().entries


def test_scaling_down_takes_the_least_good_first() -> None:
    cluster = running(replace(WEB, replicas=4), zones=2)
    sick = cluster.of("web")[2].replica_id
    cluster.health[sick] = ReplicaHealth.UNHEALTHY
    assert cluster.say(ScaleApp("web", 3))
    assert [entry.replica_id for entry in unassigns(cluster.act())] == [sick]
    assert cluster.say(ScaleApp("web", 2))
    cluster.settle()
    assert cluster.zones("web") == {"z0": 1, "z1": 1}


def test_scaling_down_keeps_the_only_healthy_one() -> None:
    cluster = running(replace(WEB, rollout=Rollout(max_unavailable=3)))
    for assignment in cluster.of("web")[:2]:
        cluster.health[assignment.replica_id] = ReplicaHealth.BACKING_OFF
    healthy = cluster.of("web")[2].replica_id
    assert cluster.say(ScaleApp("web", 1))
    cluster.act()
    assert [assignment.replica_id for assignment in cluster.of("web")] == [healthy]


def test_scaling_to_none_and_back() -> None:
    cluster = running()
    assert cluster.say(ScaleApp("web", 0))
    cluster.settle()
    assert not cluster.of("web")
    assert cluster.say(ScaleApp("web", 2))
    cluster.settle()
    assert len(cluster.healthy("web")) == 2


def test_a_drain_moves_one_replica_at_a_time_and_the_new_one_first() -> None:
    manifest = replace(WEB, replicas=6, rollout=Rollout(max_surge=3))
    cluster = Cluster()
    node = cluster.join(member(1, labels={"a": "b"}))
    cluster.deploy(manifest)
    cluster.settle()
    cluster.join(member(2))
    cluster.drain(node)
    plan = cluster.act()
    assert (len(assigns(plan)), len(unassigns(plan))) == (1, 0)
    cluster.settle()
    assert not cluster.on(node)
    assert len(cluster.healthy("web")) == 6


def test_a_drain_with_nowhere_to_go_leaves_the_app_running() -> None:
    cluster = running(replace(WEB, replicas=1), count=1)
    cluster.drain(cluster.of("web")[0].node)
    assert not cluster.plan().entries
    assert "n1 is being drained" in texts(cluster)


def test_a_replica_moves_from_a_node_that_no_longer_matches() -> None:
    cluster = Cluster()
    first = cluster.join(member(1, labels={"disk": "ssd"}))
    cluster.deploy(replace(WEB, replicas=1, constraints=(("disk", "ssd"),)))
    cluster.settle()
    cluster.join(member(2, labels={"disk": "ssd"}))
    cluster.label(first, {})
    cluster.settle()
    assert not cluster.on(first)
    assert len(cluster.healthy("web")) == 1


def test_a_replica_that_keeps_failing_tries_another_node_and_makes_one_tour_only() -> None:
    cluster = running(replace(WEB, replicas=1), count=3)
    for _ in range(20):
        for assignment in cluster.of("web"):
            cluster.health[assignment.replica_id] = ReplicaHealth.BACKING_OFF
            cluster.restarts[assignment.replica_id] = 5
        cluster.act()
        cluster.now += 1
    assert cluster.facts.apps["web"].next_replica == 4
    assert not cluster.plan().entries


def test_the_replicas_of_a_removed_app_are_taken_away() -> None:
    cluster = running()
    assert cluster.say(RemoveApp("web"))
    assert len(unassigns(cluster.act())) == 3
    assert not cluster.of("web")


# --- exclusive --------------------------------------------------------------------------------------------------

ONE = Manifest("one", "python app.py", exclusive=True, rollout=Rollout(max_unavailable=1, max_surge=0))


def test_an_exclusive_replica_is_replaced_fifteen_seconds_after_its_node_was_seen_out() -> None:
    cluster = running(ONE)
    cluster.out(cluster.of("one")[0].node)
    plan = cluster.act()
    assert not plan.entries
    assert plan.next_check_s == 15
    cluster.now += 14.9
    assert not cluster.act().entries
    cluster.now += 0.2
    plan = cluster.act()
    assert (len(assigns(plan)), len(unassigns(plan))) == (1, 1)


def test_an_exclusive_replica_is_started_fifteen_seconds_after_the_old_ones_removal() -> None:
    cluster = running(ONE)
    cluster.deploy(ONE)
    plan = cluster.act()
    assert (len(assigns(plan)), len(unassigns(plan))) == (0, 1)
    assert not cluster.act().entries
    cluster.now += 15
    assert len(assigns(cluster.act())) == 1


def test_a_new_leader_waits_before_it_starts_an_exclusive_replica() -> None:
    cluster = running(ONE)
    cluster.deploy(ONE)
    cluster.act()
    cluster.now += 5
    cluster.new_leader()
    cluster.now += 14
    assert not cluster.act().entries
    cluster.now += 1
    assert len(assigns(cluster.act())) == 1


def test_an_exclusive_app_deployed_again_after_its_removal_waits_too() -> None:
    cluster = running(ONE)
    assert cluster.say(RemoveApp("one"))
    cluster.act()
    cluster.act()
    cluster.deploy(ONE)
    assert not cluster.act().entries
    cluster.now += 15
    assert len(assigns(cluster.act())) == 1


def test_an_exclusive_replica_whose_node_returns_in_time_stays() -> None:
    cluster = running(ONE)
    node = cluster.of("one")[0].node
    cluster.out(node)
    cluster.act()
    cluster.now += 10
    cluster.back(node)
    cluster.now += 10
    assert not cluster.act().entries


def test_an_exclusive_replica_is_not_stopped_when_it_has_nowhere_to_go() -> None:
    cluster = running(ONE, count=1)
    cluster.drain(cluster.of("one")[0].node)
    assert not cluster.act().entries


def test_a_plan_that_is_only_shown_knows_no_leaders_waits() -> None:
    cluster = cluster_of(2)
    cluster.new_leader()
    cluster.deploy(ONE)
    assert not cluster.plan().entries
    assert len(assigns(reconcile(replace(cluster.view(), seen=LONG_SEEN)))) == 1
