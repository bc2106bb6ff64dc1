"""From proven events to changes of the index: the one door for every source.

The live stream, a replay and a copy of a repo all go through `projection`, which loads the part of
the index that a batch touches (`slice`) and applies `repo_rules` and `record_rules`. What a copy of
a repo lacks is deleted there too.

Promise: every rule goes by `rev`, so events may come again, late or from another source, and the
index ends the same; what is revoked stays revoked. Never knows the network, nor where an event came
from.
"""
