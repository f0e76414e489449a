"""The picture of the loss over p_t."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from segfocal.reports.loss_curves import loss_curves, main


def test_a_curve_for_each_gamma_is_the_focal_loss(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_a, **_k: drawn.append(figure))
    loss_curves(tmp_path / "curves.png", (0.0, 2.0), alpha=0.25)
    loss, share = drawn[0].axes
    assert [line.get_label() for line in loss.lines] == ["gamma 0 (cross-entropy)", "gamma 2"]
    p, value = loss.lines[1].get_data()
    np.testing.assert_allclose(value, -0.25 * (1 - p) ** 2 * np.log(p), rtol=1e-9)
    p, value = share.lines[0].get_data()
    np.testing.assert_allclose(value, 0.25, rtol=1e-9)


def test_the_command_writes_a_picture(tmp_path):
    out = tmp_path / "curves.png"
    main(["--gamma", "0", "0.5", "5", "--out", str(out)])
    picture = image.imread(out)
    assert picture.shape[0] > 300
    assert picture.shape[1] > 700
    assert picture.std() > 0.05


def test_a_negative_gamma_is_a_line_and_status_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--gamma", "-1", "--out", str(tmp_path / "curves.png")])
    assert stopped.value.code == 2
    assert "gamma must be finite and >= 0: got -1.0." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
