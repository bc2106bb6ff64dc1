"""One durable line for each acknowledged revocation, beside the database.

An older copy of the database does not know what was acknowledged since it was made; the journal
does. `lines` is the format, `writer` appends, `reader` reads back, `play` puts it into an index.

Promise: a line is on the disk before its revocation is answered; what is read back is what was
written, or it is refused. Never knows callers, nor repos.
"""
