"""Whether a stream goes on where it was read up to: by the `seq` of its frames. Pure.

A relay may leave seqs out, and one may count microseconds. It may count anew, be it restored or
replaced, and has perhaps passed our cursor by the time that we are back; then it says nothing, and
may swallow an event. So each connection is asked for the frame at the cursor once more, and by that
frame one sequence is told from another.

Source: atproto.com/specs/event-stream; what relays do was tried.
"""

from enum import Enum, auto

FAR_AHEAD = 10_000  # seqs that a relay may leave out; beyond it a stretch may be lost
DENSE = 1_000_000  # frames without such a gap after which a stream is not one that always jumps
BACK_IN_A_ROW = 100  # frames that go back until they are another sequence


class Verdict(Enum):
    """What a frame's seq says of the stream."""

    GOES_ON = auto()
    REPEATED = auto()  # the frame at the position once more, or one from before it
    UNDECIDED = auto()  # a gap: the next frame tells whether this stream always has them
    MISSED = auto()  # what lies between the position and this frame was missed
    RENUMBERED = auto()  # another sequence begins with this frame
    REPLACED = auto()  # the frame at the position is another one now: where we stand is not known


class Sequence:
    """The order of one relay's frames over its connections.

    `is_smooth`: a frame up to `FAR_AHEAD` seqs behind the position needs no judgement, it goes on.
    """

    def __init__(self) -> None:
        self.is_smooth = False
        self._is_joined = False  # the first frame of this connection was seen
        self._is_asked_again = False  # the frame at the position is the first that should come
        self._may_lack = False  # what lies behind the position may be missing: it was told of
        self._is_undecided = False
        self._jumps = False  # this stream leaves out many seqs at a time
        self._gap_at = 0  # the count of frames at the last gap, or when it was joined
        self._back = 0  # frames in a row that went back

    def connect(self, *, again: bool, may_lack: bool = False) -> None:
        """Begin a connection. `again`: it was asked for the frame at the position, too.

        `may_lack`: frames behind the position are stepped over.
        """
        self.is_smooth = self._is_joined = self._is_undecided = False
        self._is_asked_again = again
        self._may_lack = may_lack
        self._back = 0

    def told_of_gap(self) -> None:
        """The relay says itself that it has not all behind the position any more."""
        self._may_lack |= not self._is_joined

    def step(self, position: int | None, seq: int, count: int, *, is_same: bool) -> Verdict:
        """Judge the next frame, the `count`th of all.

        `is_same`: if its seq is the position, it is the very frame that was read there.
        """
        verdict = self._judge(position, seq, count, is_same)
        self._is_joined = True
        if verdict is not Verdict.REPEATED:
            self._back = 0
        self.is_smooth = verdict in (Verdict.GOES_ON, Verdict.MISSED, Verdict.RENUMBERED)
        return verdict

    def _judge(self, position: int | None, seq: int, count: int, is_same: bool) -> Verdict:
        is_first = not self._is_joined
        if position is None:
            self._gap_at = count
            return Verdict.GOES_ON
        if seq < position:
            self._back += 1
            is_other = is_first or self._back >= BACK_IN_A_ROW
            return Verdict.RENUMBERED if is_other else Verdict.REPEATED
        is_near = seq <= position + FAR_AHEAD
        if is_first and not self._jumps:
            # Whether it is dense is seen by what follows.
            self._gap_at = count - (seq > position and is_near)
        if seq == position:
            if is_same:
                return Verdict.REPEATED
            return Verdict.REPLACED if is_first and self._is_asked_again else Verdict.GOES_ON
        if is_first:
            if self._may_lack or position == 0:
                return Verdict.GOES_ON  # it was told already, or the oldest was asked for
            if self._is_asked_again or not is_near:
                return Verdict.MISSED
        return self._near() if is_near else self._far(count)

    def _near(self) -> Verdict:
        if not self._is_undecided:
            return Verdict.GOES_ON
        self._is_undecided, self._jumps = False, True
        return Verdict.MISSED

    def _far(self, count: int) -> Verdict:
        near, self._gap_at = count - self._gap_at - 1, count
        if self._is_undecided:
            self._is_undecided, self._jumps = False, True
            return Verdict.GOES_ON
        if self._jumps:
            return Verdict.MISSED if near >= DENSE else Verdict.GOES_ON
        if near:
            self._jumps = True
            return Verdict.MISSED
        self._is_undecided = True
        return Verdict.UNDECIDED
