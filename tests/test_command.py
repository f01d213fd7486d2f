"""python -m heartbox: a row an image, errors in their rows, nothing half-written."""

import cv2
import numpy as np
import pandas as pd
import pytest

from heartbox.__main__ import main
from heartbox.report import TABLE_COLUMNS


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    (folder / "deeper").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "deeper/a.png"):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (128, 128), dtype=np.uint8))
    (folder / "b.dcm").write_text("no film")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_a_folder_with_a_bad_file(weights, films, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [
        str(films),
        "--weights",
        str(weights),
        "--csv",
        str(out / "t.csv"),
        "--overlays",
        str(out / "pictures"),
    ]
    assert main(arguments) == 0
    table = pd.read_csv(out / "t.csv")
    assert list(table.columns) == TABLE_COLUMNS
    assert [path.rsplit("/", 1)[-1] for path in table["file"]] == ["a.png", "b.dcm", "a.png"]
    assert table["error"].isna().tolist() == [True, False, True]
    assert table.loc[0, ["heart_x_min", "heart_y_max", "ctr"]].tolist() == pytest.approx([40, 80, 0.5])
    assert len(list((out / "pictures").glob("*.png"))) == 2
    assert "3 images, 2 answered, 1 could not be read" in capsys.readouterr().err


def test_a_missing_file_is_a_row_and_no_traceback(weights, capsys):
    assert main(["nowhere.dcm", "--weights", str(weights)]) == 1
    assert "there is no such file" in capsys.readouterr().out


def test_nothing_to_work_with(weights, tmp_path, capsys):
    assert main(["x.dcm", "--weights", str(tmp_path / "none.pt")]) == 2
    assert "03-Model-Training" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), "--weights", str(weights)]) == 2
    assert "no X-ray files" in capsys.readouterr().err
