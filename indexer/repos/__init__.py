"""Repos that are out of step or not known yet: found, fetched, proven and made right.

`backfill` asks which repos have records of ours, `hosts` asks their hosts, `resync` fetches,
proves, and hands the copy to `rules.projection`.

Promise: a repo that its host serves ends up whole, deletions included, and no host is pressed.
Never moves the stream's cursor.
"""
