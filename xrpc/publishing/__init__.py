"""What is written to PDSes, and the sessions for it.

`publisher` works off the outbox: up to 200 verifications of a repo as one commit, or one by one
where that is refused; invites one by one, by version. `sessions` keeps the accounts' tokens sealed
and fresh; `pds` is the only door to a host; `writing` handles what every write meets.

Promise: a deletion is tried until its repo is known to be rid of the record, and a crash repeats a
step that does no harm. Never knows the requests that come to us.
"""
