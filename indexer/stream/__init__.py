"""From a socket or a file to decoded events, and how far the stream has been read.

`transport` and `firehose` connect; `decode` reads a frame without opening its CAR, and skips what
does not concern us (`events` has every reason); `receiver` puts events and position into the
`inbox`. `recording` and `recorder` keep a stretch in a file, `pace` tells when we are behind.

Promise: the position never passes an event that is still waiting. Never knows what an event means
for the index, nor which repos are being repaired.
"""
