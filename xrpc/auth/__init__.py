"""From a service token to the account that calls.

`service_jwt` reads the token, `callers` checks every claim and the signature with the caller's
current key, `used_tokens` remembers what was used.

Promise: a caller is who signed, for this service, this method and this time; a refusal names the
claim and never shows the token. Never knows what the caller wants.
"""
