"""Requests to hosts that strangers name.

`guard` refuses where a request may not go, by the list in `public_addresses`; `requests` says how
long one may take and how much it may bring, `health` when a failing host is asked again.

Promise: no private address is dialled, whatever DNS or a redirect says, and no answer is larger or
slower than its limit. Never knows what is asked for, or why.
"""
