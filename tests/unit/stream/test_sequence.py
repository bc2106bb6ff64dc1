"""What the `seq` of a frame says of the stream: gaps, frames that go back, another sequence."""

import pytest

from indexer.stream.sequence import BACK_IN_A_ROW, DENSE, FAR_AHEAD, Sequence, Verdict

GOES_ON, REPEATED, UNDECIDED = Verdict.GOES_ON, Verdict.REPEATED, Verdict.UNDECIDED
MISSED, RENUMBERED, REPLACED = Verdict.MISSED, Verdict.RENUMBERED, Verdict.REPLACED
FAR = FAR_AHEAD + 1


class Stream:
    """A sequence, with the position that a reader of it keeps."""

    def __init__(self, position: int | None = None) -> None:
        self.sequence = Sequence()
        self.position = position
        self.count = 0

    def connect(self, *, again: bool = False, may_lack: bool = False) -> None:
        self.sequence.connect(again=again, may_lack=may_lack)

    def sees(self, *seqs: int, is_same: bool = True) -> list[Verdict]:
        verdicts = []
        for seq in seqs:
            self.count += 1
            verdict = self.sequence.step(self.position, seq, self.count, is_same=is_same)
            if verdict is not REPEATED:
                self.position = seq
            verdicts.append(verdict)
        return verdicts


def joined(position: int | None = None, **how: bool) -> Stream:
    stream = Stream(position)
    stream.connect(**how)
    return stream


def test_seqs_that_are_left_out_mean_nothing() -> None:
    assert joined(1).sees(2, 3, 50, 51, 51 + FAR_AHEAD) == [GOES_ON] * 5


def test_the_first_gap_in_a_dense_stream_is_a_hole_and_those_behind_it_are_its_way() -> None:
    stream = joined(1)
    assert stream.sees(2, 3) == [GOES_ON] * 2
    assert stream.sees(3 + FAR) == [MISSED]
    assert stream.sees(*range(3 + 2 * FAR, 100 * FAR, FAR)) == [GOES_ON] * 98


def test_a_stream_that_always_jumps_has_no_hole() -> None:
    stream = joined(None)
    stamps = range(1_790_000_000_000_000, 1_790_000_001_000_000, 50_000)
    assert set(stream.sees(*stamps)) == {GOES_ON, UNDECIDED}
    stream.connect(again=True)
    assert stream.sees(stream.position or 0) == [REPEATED]
    assert stream.sees((stream.position or 0) + 10**9) == [GOES_ON]


def test_whether_a_first_gap_is_a_hole_is_told_by_the_next_frame() -> None:
    stream = joined(5, again=True)
    assert stream.sees(5, 5 + FAR) == [REPEATED, UNDECIDED]
    assert stream.sees(6 + FAR) == [MISSED]
    stream = joined(5, again=True)
    assert stream.sees(5, 5 + FAR, 6 + 2 * FAR, 7 + 2 * FAR) == [
        REPEATED, UNDECIDED, GOES_ON, GOES_ON,
    ]  # fmt: skip


def test_after_a_long_dense_stretch_a_gap_is_a_hole_again() -> None:
    stream = joined(1)
    assert stream.sees(2, 2 + FAR) == [GOES_ON, MISSED]
    stream.count += DENSE  # frames that went by in between
    assert stream.sees(3 + 2 * FAR) == [MISSED]
    assert stream.sees(4 + 3 * FAR) == [GOES_ON]


def test_one_repeated_frame_is_nothing() -> None:
    assert joined(1).sees(2, 2, 3, 3, 3) == [GOES_ON, REPEATED, GOES_ON, REPEATED, REPEATED]


def test_frames_that_go_back_are_dropped_until_there_are_a_hundred_in_a_row() -> None:
    stream = joined(1_000)
    assert stream.sees(1_001) == [GOES_ON]
    back = range(1, BACK_IN_A_ROW)
    assert stream.sees(*back) == [REPEATED] * 99
    assert stream.sees(1_002) == [GOES_ON]
    assert stream.sees(*back) == [REPEATED] * 99
    assert stream.sees(100, 101) == [RENUMBERED, GOES_ON]


@pytest.mark.parametrize("again", [True, False])
def test_a_connection_that_begins_below_the_cursor_is_another_stream(again: bool) -> None:
    assert joined(1_000, again=again).sees(999, 1_000) == [RENUMBERED, GOES_ON]


def test_the_frame_at_the_cursor_tells_whether_it_is_the_same_stream() -> None:
    assert joined(7, again=True).sees(7, 8) == [REPEATED, GOES_ON]
    assert joined(7, again=True).sees(7, is_same=False) == [REPLACED]
    assert joined(7, again=True).sees(8, 9) == [MISSED, GOES_ON]
    # Where it was not asked for, nothing is known of it.
    assert joined(7).sees(8, 9) == [GOES_ON, GOES_ON]
    assert joined(7).sees(7, 8, is_same=False) == [GOES_ON, GOES_ON]


def test_what_is_told_or_stepped_over_is_not_missed_once_more() -> None:
    assert joined(7, again=True, may_lack=True).sees(9) == [GOES_ON]
    stream = joined(7, again=True)
    stream.sequence.told_of_gap()
    assert stream.sees(10**9, 10**9 + 1) == [GOES_ON] * 2
    stream.sequence.told_of_gap()  # not of the next one
    assert stream.sees(3 * 10**9) == [MISSED]


def test_the_oldest_and_the_live_end_are_where_it_begins() -> None:
    assert joined(0).sees(10**9) == [GOES_ON]
    assert joined(None).sees(10**9) == [GOES_ON]


def test_only_what_is_near_behind_a_frame_that_went_on_needs_no_judgement() -> None:
    stream = joined(7, again=True)
    for seq, is_smooth in ((7, False), (8, True), (8, False), (9, True), (1, False), (10, True)):
        stream.sees(seq)
        assert stream.sequence.is_smooth is is_smooth
