"""The SQLite file: all SQL, a file a table, and the only way to write.

`db` opens, migrates and hands out transactions; a function that writes takes a `Transaction`, so
that the type checker proves it runs inside one. Small work is done on the event loop (`near`), the
rest by threads (`connections`). `schema.sql` has the tables and their rules.

Promise: what a transaction wrote is on the disk when it ends, whole or not at all. Never knows
HTTP, nor the rules by which rows come and go.
"""
