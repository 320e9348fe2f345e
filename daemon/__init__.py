"""The one process: configuration, home, wiring, REST `/v1`, events.

Entry points: `lives.run_node(config)`, `node.Node` (the wiring, top to bottom), `client.Client` (what the command
imports).

It decides nothing that a package below could decide.
"""
