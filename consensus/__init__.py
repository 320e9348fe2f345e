"""What the mesh agrees on: Raft, its log on disk, and the ledger.

Entry classes: `raft.raft.Raft` (the machine), `host.Host` (drives groups over one log), `ledger.Ledger` (propose,
read, watch), `ledger_state.LedgerState` (what an applied log means).

It must never know what an app, a bucket or a table is beyond the records it stores for them, and it never acts on
gossip by itself: only the elected leader's duties turn an observation into an entry.
"""
