"""The settings: `settings` names them all, `values` says what the text of each may be.

Promise: a wrong setting is refused at the start, by name, with what would be right, and no secret
is ever shown. Never knows what a setting is used for.
"""
