"""From people to the index and to the PDS.

A call comes in by `serving`, `auth` says whose it is, a function in `methods` answers it, and
`publishing` writes to the repos what has to be written. `services` is what a method stands on.

Promise: an answer is true, and an acknowledged revocation is on the disk before it is sent. Uses
what `indexer` has (store, identity, guarded requests); `indexer` never uses it, except in `cli`.
"""
