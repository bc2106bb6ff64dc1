"""From bytes and a key to what is proven: a CAR's blocks, a tree, a commit, a whole repo.

Promise: what comes out has been checked hash by hash and against the signature; what can't be
checked is refused with its reason. Never knows the clock, the network or the database: all of it is
pure, and `prover`, which fetches the keys, stands outside.
"""
