"""The HTTP/1.1 and WebSocket engine (rule H1): one parser to secure, used by the API, the ingress, the relay and S3.

Machines: `head` (request and response heads over llhttp, with stricter checks above it), `body` (length, chunked),
`http1` (`RequestReader`, `ResponseReader`: bytes in, messages out) and `responses` (`ResponseWriter`).
Shells: `server.HttpServer` (a task per connection), `asgi` and `websocket` (hosting an ASGI application), `client`
(one request over any stream) and `relay` (a request to an upstream and its response back, both re-serialised).

This package must never know what is served: no route, no token, no replica.
"""
