"""How one run of an app comes to life and ends, behind one seam (rules A2, A3, A5).

Entry classes: `runtime.Runtime` (the seam), `process.ProcessRuntime` (a command under a shim in a sandbox).

A runtime knows nothing of the ledger, of other nodes or of restarts. `shim.py`, `shim_run.py` and what they import
run in a process of their own, on the standard library alone; `confine.py` also inside sandboxes.
"""
