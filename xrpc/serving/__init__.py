"""HTTP: routes, limits, health, metrics and pages around the methods.

`server` holds connections, `app` the routes, `endpoint` the life of one call, `limits` what one
caller may ask.

Promise: every answer is `{error, message}` or what the lexicon says, and no client makes the others
wait. Never knows SQL or tables: the store counts what is shown of them.
"""
