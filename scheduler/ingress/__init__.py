"""The way in (rule A4): HTTP for apps, on every node, by name, on a port of its own.

`routes` derives who can answer from the ledger and from gossip, `balance` chooses among them; both are pure.
`ingress.Ingress` serves: it chooses, relays (`mesh.http.relay`), retries within its budget and accounts for each
request (`accounts`); `upstreams` opens the connections, `following` keeps the routes fresh.

This package must never know an address of another node: a replica elsewhere is named, and its own node connects.
"""
