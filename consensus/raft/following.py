"""The follower's side of the log: take what the leader sends, refuse what does not fit, say so when it is durable.

Source: thesis §3.5, figure 3.1 "AppendEntries RPC".
"""

from __future__ import annotations

from consensus.raft.core import Core
from consensus.raft.messages import Append, Appended, AppendRefused, Heartbeat, HeartbeatReply
from mesh.names import NodeId


def receive_append(core: Core, leader: NodeId, append: Append) -> None:
    """Append what fits and acknowledge it after the disk has it.

    The log is cut only at the first entry that *conflicts*. An Append that is short, late or a duplicate cuts
    nothing, and nothing committed is ever cut (pitfall 19).
    """
    log = core.log
    if append.prev_index < log.commit:
        # Late or doubled. All that is committed agrees with the leader; the rest will be told when it comes.
        core.send_after_persist(leader, Appended(log.commit))
        return
    if log.term_at(append.prev_index) != append.prev_term:
        hint_index, hint_term = log.agreement_hint(append.prev_index, append.prev_term)
        core.send(leader, AppendRefused(append.prev_index, hint_index, hint_term))
        return
    for at, entry in enumerate(append.entries):
        if log.term_at(entry.index) == entry.term:
            continue
        if entry.index <= log.last_index:
            core.truncate_from(entry.index)
        core.append(append.entries[at:])
        break
    verified = append.prev_index + len(append.entries)
    # Only what this very message verified may be committed: behind it may stand what the leader never sent
    # (pitfall 20).
    log.commit_to(min(append.commit, verified))
    core.send_after_persist(leader, Appended(verified))


def receive_heartbeat(core: Core, leader: NodeId, heartbeat: Heartbeat) -> None:
    """Its commit index was acknowledged by us to this leader, hence needs no check.

    A log that no longer reaches it has lost what it acknowledged; then nothing is committed by this, and the leader
    finds out by its next Append.
    """
    if heartbeat.commit <= core.log.last_index:
        core.log.commit_to(heartbeat.commit)
    core.send(leader, HeartbeatReply(heartbeat.round))


def well_formed(append: Append) -> bool:
    """Whether the entries follow each other and `prev_index`, with terms that do not fall.

    A peer whose program is broken must not break ours; the decoder has checked types and sizes before.
    """
    index, term = append.prev_index, append.prev_term
    for entry in append.entries:
        if entry.index != index + 1 or entry.term < term:
            return False
        index, term = entry.index, entry.term
    return append.prev_index >= 0
