"""The Raft core: one replica of one group, as a machine without I/O (rule C1).

`raft.Raft` is the entry: inputs change its state, `take_output()` says what to persist, send, apply and tell.
`messages` is all that travels, `outputs` all that comes out, `config.RaftConfig` the constants with their reasons.
A driver's duties, in order, stand in the docstring of `outputs.Output`.

It never reads a clock, a disk or a random source of its own, knows no addresses and no ledger, holds no lease, and
never forgets a vote within its term.

Source: Ongaro's thesis "Consensus: Bridging Theory and Practice" (2014), cited by section where each rule is used.
"""
