"""Lexicon documents and the values that they describe, as the protocol specifies them.

`interpreter` checks a value against a document, `syntax` has the string formats, `strict_json`
reads JSON in the one way that it can mean. The documents themselves lie in `indexer/lexicons/`
(records) and `xrpc/lexicons/` (methods).

Promise: every check gives an answer for any input, and no refusal repeats the value. Never knows
anything else of Rescind: it is pure, and imported by all.
"""
