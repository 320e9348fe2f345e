"""What every other package stands on: who a node is, and how nodes reach each other.

Entry classes: `identity.Identity` (the key), `peers.Peers` (links to other members), `rpc.RpcServer` (what this
node answers). `versioned.Codec` is how everything is written on a wire or a disk; `errors` is the tree of errors;
`machine` and `driver` are the shape of every protocol core. `http/` is the HTTP/1.1 and WebSocket engine.

It must never know what travels over its links: no gossip, no ledger, no app.
"""
