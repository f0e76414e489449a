import pytest

from segfocal.data.cases import channel_indices, naming
from segfocal.errors import UserError

HELD = ("FLAIR", "T1w", "T1gd", "T2w")


def test_channels_are_found_by_name_in_the_order_wanted():
    assert channel_indices(HELD, ("T1gd", "T1w", "T2w", "FLAIR")) == (2, 1, 3, 0)
    assert channel_indices(HELD, ("T2w",)) == (3,)


def test_an_unknown_channel_names_the_one_meant():
    with pytest.raises(UserError) as caught:
        channel_indices(HELD, ("FLAIR", "T1ge"))
    assert str(caught.value) == (
        "data.channels: T1ge is not a channel of the data; it has FLAIR, T1w, T1gd, T2w. "
        "Did you mean T1gd?"
    )
    with pytest.raises(UserError, match="Take names from that list"):
        channel_indices(HELD, ("ADC",))


def test_a_channel_wanted_twice_is_refused():
    with pytest.raises(UserError, match="T1w stands twice"):
        channel_indices(HELD, ("T1w", "T1w"))


def test_naming_touches_user_errors_only():
    with pytest.raises(UserError, match=r"^c7: broken$"), naming("c7"):
        raise UserError("broken")
    with pytest.raises(ValueError, match=r"^ours$"), naming("c7"):
        raise ValueError("ours")
