"""Apps: from a manifest to processes that are healthy, and requests that reach them.

Entry classes: `service.Scheduler` (deploy, scale, remove), `reconcile.reconcile` (pure: view to entries),
`runner.Runner` (what the ledger assigns to this node, runs), `ingress.ingress.Ingress`.

The pure half (manifest, filters, scores, placement, rollout, reconcile) never does I/O; the runner never decides
where an app belongs.
"""
