"""From bytes and a key to what is proven: a CAR's blocks, a tree, a commit, a whole repo.

`verify` checks a commit, `keys` a signature (low S only), `car` the hashes, `mst` the tree, `repo`
a whole copy.

Promise: what can't be checked is refused with its reason. Never knows the clock, the network or the
database: all of it is pure, and `prover`, which fetches the keys, stands outside.
"""
