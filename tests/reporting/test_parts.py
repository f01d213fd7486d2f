"""A table in parts: each complete or absent, taken up again, and the same rows as a csv."""

import contextlib
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from heartbox import cli
from heartbox.inference.archive import OutputError
from heartbox.reporting import parts
from heartbox.reporting.export import TABLE_COLUMNS, table_row
from heartbox.reporting.parts import Counts, Parts, count_rows

pq = pytest.importorskip("pyarrow.parquet", reason='tables in Parquet are wanted: pip install ".[scale]"')
NAMES = [f"{number}.dcm" for number in range(7)]
ANSWERED = {"heart_x_min": 1.5, "rows": 128, "columns": 160, "view": "PA", "warnings": "Odd."}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "ROWS", 3)


def row(place: int) -> dict:
    return table_row(NAMES[place], None, "no film") if place < 3 else table_row(NAMES[place], None) | ANSWERED


def fill(table: Parts, places) -> None:
    for place in places:
        table.add(place, row(place))


def test_a_part_is_there_when_all_its_rows_are_and_in_their_order(tmp_path):
    folder = tmp_path / "t.parquet"
    table = Parts(folder, NAMES, "a")
    fill(table, [6, 2, 0, 5])
    assert [path.name for path in sorted(folder.glob("*.parquet"))] == ["part-00002.parquet"]
    fill(table, [1, 3, 4])
    whole = pd.read_parquet(folder)
    assert list(whole.columns) == TABLE_COLUMNS and whole["file"].tolist() == NAMES
    assert whole["error"].fillna("").tolist() == ["no film"] * 3 + [""] * 4
    assert whole["heart_x_min"].iloc[3] == 1.5 and whole["rows"].iloc[6] == 128
    assert count_rows(folder) == Counts(7, flagged=4, failed=3)
    schemas = {pq.read_schema(path).to_string() for path in folder.glob("part-*")}
    assert len(schemas) == 1  # also where a column is empty in one part


def test_a_run_that_was_stopped_goes_on_with_the_parts_that_are_missing(tmp_path):
    fill(Parts(tmp_path / "t.parquet", NAMES, "a"), [0, 1, 2, 3, 6])
    again = Parts(tmp_path / "t.parquet", NAMES, "a")
    assert again.places_left() == [3, 4, 5]
    fill(again, again.places_left())
    assert pd.read_parquet(tmp_path / "t.parquet")["file"].tolist() == NAMES


def test_a_part_that_could_not_be_written_is_absent(tmp_path, monkeypatch):
    def full(table, path, **_):
        Path(path).write_bytes(b"half a part")
        assert not list(tmp_path.glob("t.parquet/[!._]*"))  # nobody who reads the folder sees it
        raise OSError(28, "No space left on device")

    table = Parts(tmp_path / "t.parquet", NAMES, "a")
    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.write_table", full)
        with pytest.raises(OSError, match="No space left"):
            fill(table, [0, 1, 2])
    assert [path.name for path in (tmp_path / "t.parquet").iterdir()] == [parts.MANIFEST]


@pytest.mark.parametrize(
    ("names", "weights", "version", "said"),
    [
        (NAMES, "b", None, "written with other weights; name another folder"),
        (NAMES[:6], "a", None, "another list of films"),
        ([*NAMES[:6], "other.dcm"], "b", None, "other weights and another list of films"),
        (NAMES, "a", "0.0.1", "another version of Heartbox"),
    ],
)
def test_a_table_made_from_anything_else_is_refused(tmp_path, monkeypatch, names, weights, version, said):
    Parts(tmp_path / "t.parquet", NAMES, "a")
    if version:
        monkeypatch.setattr(parts, "__version__", version)
    with pytest.raises(OutputError, match=said):
        Parts(tmp_path / "t.parquet", names, weights)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("my own")
    with pytest.raises(OutputError, match="not a table of this command"):
        Parts(tmp_path, NAMES, "a")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture
def films(tmp_path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 255, (128, 128 + number), dtype=np.uint8))
    (folder / "bad.dcm").write_text("no film")
    return folder


def main(*arguments) -> int:
    return cli.main(list(map(str, arguments)))


def test_the_command_writes_what_it_writes_to_a_csv(weights, films, tmp_path, monkeypatch, capsys):
    """With a worker of a real cluster, and films by relative paths."""
    pytest.importorskip("distributed", reason='a cluster is wanted: pip install ".[scale]"')
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("films/0.png\nfilms\n\n")
    options = ("list.txt", "--weights", weights.name)
    assert main(*options, "--csv", "t.csv", "--workers", "0") == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("6 images, 5 answered")
    assert main(*options, "--csv", "t.parquet", "--workers", "1") == 0
    assert capsys.readouterr().err.splitlines()[-1] == said
    table, written = pd.read_parquet("t.parquet"), pd.read_csv("t.csv")
    assert len(list((tmp_path / "t.parquet").glob("part-*"))) == 2
    assert table["file"].tolist() == written["file"].tolist()
    pd.testing.assert_frame_equal(table.round(3), written, check_dtype=False)
    monkeypatch.setattr(parts, "__version__", "0.0.1")
    assert main(*options, "--csv", "t.parquet") == 2
    assert "t.parquet: was written with another version of Heartbox" in capsys.readouterr().err


def test_a_second_run_answers_the_missing_part_alone(weights, films, tmp_path, monkeypatch, capsys):
    asked = []

    def answer_here(client, jobs, answer):
        asked.append([job.source.name for job in jobs])
        yield from enumerate(map(answer, jobs))

    monkeypatch.setattr(parts, "connect", lambda scheduler, workers: contextlib.nullcontext())
    monkeypatch.setattr(parts, "answer_on_cluster", answer_here)
    options = (films, "--weights", weights, "--csv", tmp_path / "t.parquet")
    assert main(*options) == 0
    first = pd.read_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.parquet" / "part-00000.parquet").unlink()
    assert main(*options, "--strict") == 1
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), first)
    assert asked == [first["file"].tolist(), first["file"].tolist()[:3]]
    assert main(*options) == 0 and len(asked) == 2  # nothing is left to do
    assert capsys.readouterr().err.count("5 images, 4 answered") == 3


def test_weights_that_a_worker_does_not_have_end_the_run(weights, films, tmp_path, monkeypatch, capsys):
    """Without this each film would end as an error."""

    def answer_elsewhere(client, jobs, answer):
        weights.unlink()
        parts.Outputs.__call__.__globals__["load_detector"].cache_clear()
        outcome = answer(jobs[0])
        raise OutputError(outcome.fatal)

    monkeypatch.setattr(parts, "connect", lambda scheduler, workers: contextlib.nullcontext())
    monkeypatch.setattr(parts, "answer_on_cluster", answer_elsewhere)
    assert main(films, "--weights", weights, "--csv", tmp_path / "t.parquet") == 2
    assert "the weights on " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--csv", "t.csv", "--scheduler", "tcp://x"], "--scheduler: an archive's table is a folder of parts"),
        (["--scheduler", "tcp://x"], "--csv NAME.parquet"),
        (["--csv", "t.parquet", "--overlays", "o"], "--overlays: pictures and reports need a table that is a csv"),
        (["--csv", "t.parquet", "--workers", "0"], "at least one worker"),
        (["--csv", "file.parquet"], "this is a file"),
    ],
)
def test_options_that_do_not_go_together(films, tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    Path("file.parquet").write_text("x")
    assert main("films", *options) == 2
    assert said in capsys.readouterr().err


def test_without_the_extra_the_message_says_how_to_install_it(weights, films, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(films, "--weights", weights, "--csv", tmp_path / "t.parquet") == 2
    assert 'pip install ".[scale]"' in capsys.readouterr().err
    assert not (tmp_path / "t.parquet").exists()
