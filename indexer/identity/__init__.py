"""From a DID or a handle to the account's signing key, PDS and names.

`resolver` asks PLC, `did:web` hosts and DNS, `did_document` reads the answer, `cache` remembers it.

Promise: an answer is no older than the cache allows, and a failure says why. Never knows records,
or what a key is wanted for.
"""
