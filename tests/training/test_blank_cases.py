from segfocal.training.blank_cases import BlankCases, packed, unpacked
from segfocal.training.ranks import Ranks


class OneOfTwo(Ranks):
    """A rank whose peer says what is put into `theirs`."""

    count = 2

    def __init__(self, rank):
        self.rank = rank
        self.theirs = []

    def exchange(self, value):
        return [value, self.theirs] if self.rank == 0 else [self.theirs, value]


def cases(*named):
    return [{"case_id": case_id, "blank": blank} for case_id, blank in named]


def met(blank, *named):
    """What comes through, to the last."""
    return list(blank.of_cases(cases(*named)))


def line(what):
    return (
        f"doubt  one value in every voxel: {what}. Was it converted wrongly? segfocal-stats "
        f"--check tells of each."
    )


def test_a_case_is_told_once_whichever_rank_reads_it():
    lines = []
    ranks = OneOfTwo(0)
    blank = BlankCases(ranks, lines.append)
    assert met(blank, ("a", ("T1w",)), ("b", ())) == cases(("a", ("T1w",)), ("b", ()))
    ranks.theirs = [("c", ("FLAIR", "T2w"))]
    blank.tell()
    ranks.theirs = []
    met(blank, ("c", ("FLAIR", "T2w")), ("a", ("T1w",)))
    blank.tell()
    ranks.theirs = [("d", ("T1w",))]
    blank.tell()
    assert lines == [line("a (T1w), c (FLAIR, T2w)"), line("d (T1w)")]


def test_other_ranks_than_the_first_say_nothing():
    lines = []
    blank = BlankCases(OneOfTwo(1), lines.append)
    met(blank, ("a", ("T1w",)))
    blank.tell()
    assert lines == []


def test_batches_name_the_channels_of_each_case_in_a_text():
    lines = []
    blank = BlankCases(Ranks(), lines.append)
    batch = {"case_id": ["a", "b"], "blank": [packed(("T1, after", "T2")), packed(())]}
    assert list(blank.of_batches([batch])) == [batch]
    blank.tell()
    assert lines == [line("a (T1, after, T2)")]
    assert unpacked(packed(("T1, after", "T2"))) == ("T1, after", "T2")
