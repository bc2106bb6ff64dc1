"""From the network to the index.

`stream` turns a relay's socket into events, `proof` and `prover` turn events into proven changes,
`rules` turns those into rows, and `consumer` does so batch by batch, cursor included. `repos` mends
what is out of step, `replay` plays a stretch again, and `store` holds all SQL.

Promise: no event is lost or applied twice, and nothing is indexed that has not been proven. Never
imports `xrpc`; only the command in `cli` wires both halves.
"""
