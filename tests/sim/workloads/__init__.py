"""What clients do, one workload a file; each states its invariant as code and knows no faults.

A workload is a class made with (clients, rng, clients' names) whose `begin()` starts its clients, whose `stop()` lets
them finish what they began, and whose `check(final)` raises `Violation` if the history and the state that all
agreed on in the end contradict its invariant.
"""
