"""How two nodes get a byte stream between them; who the peer *is* never depends on it (DESIGN idea 4).

Entry: `stream.Stream`, the seam, and `stream.Dialler`. `tcp` is the first transport; each one passes the shared suite
in `tests/unit/mesh/stream_suite.py`. A transport must never know of keys, members or messages.
"""
