"""What callers can ask: one function a method, listed in `table`.

Each gets `Services` and a `Call` whose input has been validated against its document in
`xrpc/lexicons/`, and returns the output or raises an `XrpcError`.

Promise: whether a thing exists is told only to those who may know. Never knows HTTP, headers or
tokens.
"""
