"""The only door to a PDS for writing.

`publisher` works off the outbox, `sessions` keeps the accounts' tokens sealed and fresh, `pds`
speaks to the host, `writing` handles what every write meets.

Promise: a deletion is tried until its repo is known to be rid of the record, and a crash repeats a
step that does no harm. Never knows the requests that come to us.
"""
