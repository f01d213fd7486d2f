"""The command heartbox: a row an image, errors in their rows, nothing half-written."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, film_of

import heartbox
from heartbox import cli
from heartbox.inference.detector import HeartDetector
from heartbox.reporting.export import TABLE_COLUMNS
from heartbox.utils.parallel import _pool as pool
from heartbox.xray.errors import XRayError


def main(arguments: list, workers: int = 0) -> int:
    """Run the command, in this process unless a test is about the others: starting one takes seconds."""
    return cli.main([*map(str, arguments), "--workers", str(workers)])


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
    assert main(arguments, workers=1) == 0
    table = pd.read_csv(out / "t.csv")
    assert list(table.columns) == TABLE_COLUMNS
    assert [path.rsplit("/", 1)[-1] for path in table["file"]] == ["a.png", "b.dcm", "a.png"]
    assert table["error"].isna().tolist() == [True, False, True]
    assert table.loc[0, ["heart_x_min", "heart_y_max", "ctr"]].tolist() == pytest.approx([40, 80, 0.5])
    assert len(list((out / "pictures").glob("*.png"))) == 2
    assert (
        "3 images, 2 answered, 0 with warnings, 1 could not be read; files of other kinds passed over: 1"
        in capsys.readouterr().err
    )


def test_a_missing_file_is_a_row_and_no_traceback(weights, capsys):
    assert main(["nowhere.dcm", "--weights", str(weights)]) == 1
    assert "there is no such file" in capsys.readouterr().out


def test_nothing_to_work_with(weights, tmp_path, capsys):
    assert main(["x.dcm", "--weights", str(tmp_path / "none.pt")]) == 2
    assert "03-Model-Training" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), "--weights", str(weights)]) == 2
    assert "no X-ray files" in capsys.readouterr().err


def test_strict(weights, films, tmp_path):
    arguments = [str(films), "--weights", str(weights), "--csv", str(tmp_path / "t.csv")]
    assert main(arguments) == 0
    assert main([*arguments, "--strict"]) == 1
    assert main([str(films / "a.png"), "--weights", str(weights), "--strict"]) == 0


def test_a_run_that_was_stopped_goes_on(weights, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 255, (128, 128), dtype=np.uint8))
    arguments = [str(tmp_path), "--weights", str(weights), "--csv", str(tmp_path / "t.csv")]
    detect, asked = HeartDetector.detect, []

    def dying(self, path):
        asked.append(path.name)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return detect(self, path)

    monkeypatch.setattr(HeartDetector, "detect", dying)
    assert main(arguments) == 130
    assert not (tmp_path / "t.csv").exists()
    with (tmp_path / "t.csv.unfinished").open("a") as stream:
        stream.write('0123abcd {"key": "half a li')  # what a crash may leave
    cv2.imwrite(str(tmp_path / "1.png"), rng.integers(0, 255, (130, 130), dtype=np.uint8))  # changed meanwhile
    assert main(arguments) == 0
    assert asked == ["0.png", "1.png", "2.png", "3.png", "1.png", "3.png", "4.png", "5.png"]
    again = pd.read_csv(tmp_path / "t.csv")
    assert again["rows"].tolist() == [128, 130, 128, 128, 128, 128]
    assert sorted(path.name for path in tmp_path.glob("t.csv*")) == ["t.csv"]
    assert main(arguments) == 0  # a finished run is no unfinished one: all is asked anew
    assert len(asked) == 14
    pd.testing.assert_frame_equal(again, pd.read_csv(tmp_path / "t.csv"))


def test_errors_are_not_remembered(weights, tmp_path, monkeypatch):
    """Two files that are not there, and one that a missing decoder could not read, when a run is stopped."""
    named = [tmp_path / name for name in ("a.dcm", "b.dcm", "c.png", "d.png")]
    for path in named[2:]:
        cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (128, 128), dtype=np.uint8))
    arguments = [*map(str, named), "--weights", str(weights), "--csv", str(tmp_path / "t.csv")]
    detect = HeartDetector.detect

    def failing(self, path):
        if path.name == "c.png":
            raise XRayError(f"{path}: no decoder")
        if path.name == "d.png":
            raise KeyboardInterrupt
        return detect(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(HeartDetector, "detect", failing)
        assert main(arguments) == 130
    assert main(arguments) == 0
    table = pd.read_csv(tmp_path / "t.csv")
    assert [Path(name).name for name in table["file"]] == ["a.dcm", "b.dcm", "c.png", "d.png"]
    assert table["error"].notna().tolist() == [True, True, False, False]
    assert table["error"][1] == "there is no such file. Check the spelling and the folder."  # its name stands beside it


def test_without_a_csv_the_answer_is_printed(weights, films, capsys):
    assert main([str(films), "--weights", str(weights)]) == 0
    out = capsys.readouterr().out
    assert "Heart: x 40 to 80, y 32 to 80 pixels of the original image" in out
    assert "Cardiothoracic ratio: 0.50" in out
    assert "DICOM, PNG, JPEG or TIFF" in out


def test_numbers_look_alike_with_and_without_errors(weights, films, tmp_path):
    main([str(films), "--weights", str(weights), "--csv", str(tmp_path / "t.csv")])
    assert ",128,128," in (tmp_path / "t.csv").read_text()


def test_reports(weights, tmp_path, capsys):
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "jane doe.png"), rng.integers(0, 255, (128, 160), dtype=np.uint8))
    assert main([str(tmp_path / "jane doe.png"), "--weights", str(weights), "--reports", str(tmp_path / "out")]) == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["00001-jane doe-why.png", "00001-jane doe.json", "00001-jane doe.png"]
    answer = json.loads((tmp_path / "out" / "00001-jane doe.json").read_text())
    assert answer["file"].endswith("/jane doe.png")
    assert answer["heart"] == pytest.approx({"x_min": 50, "y_min": 32, "x_max": 100, "y_max": 80})
    assert answer["heart_interval"]["x_min"] == pytest.approx([45, 55])
    assert (answer["rows"], answer["columns"]) == (128, 160)
    assert answer["cardiothoracic_ratio"] == pytest.approx(0.5)
    assert answer["interval_level"] == 0.9
    assert answer["heart_margins_mm"] is None  # a picture has no millimetres
    assert answer["warnings"] == [] and answer["notes"]


def test_five_hundred_films_with_fifty_bad_ones(weights, tmp_path, capsys):
    """A row for each, the errors in theirs, and the rest unharmed."""
    rng, folder = np.random.default_rng(0), tmp_path / "films"
    folder.mkdir()
    ok, film = cv2.imencode(".png", rng.integers(0, 255, (64, 64), dtype=np.uint8))
    for i in range(500):
        bad = i % 10 == 3
        data = film.tobytes()[: 40 * (i // 10)] if bad else film.tobytes()
        (folder / f"film-{i:03d}.png").write_bytes(data)
    assert main([str(folder), "--weights", str(weights), "--csv", str(tmp_path / "t.csv")]) == 0
    table = pd.read_csv(tmp_path / "t.csv")
    assert len(table) == 500
    assert table["error"].notna().to_numpy().nonzero()[0].tolist() == list(range(3, 500, 10))
    errors = table["error"].dropna()
    assert errors.str.match("the (picture|file|image) .*(Fetch|Name) ").all()
    assert not errors.str.contains("film-|/").any()  # the name stands beside it, and in no row twice
    assert table.loc[table["error"].isna(), "heart_x_min"].to_numpy() == pytest.approx(20)
    assert table.loc[table["error"].notna(), "heart_x_min"].isna().all()
    assert "500 images, 450 answered, 450 with warnings, 50 could not be read" in capsys.readouterr().err


def test_places_that_cannot_be_written_to_are_said_first(weights, films, tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("my,precious\n")
    (tmp_path / "file").write_text("x")
    for option, place, said in (
        ("--csv", tmp_path, "this is a folder"),
        ("--csv", tmp_path / "mine.csv", "not a table of this command"),
        ("--overlays", tmp_path / "file", "this is a file; name a folder"),
        ("--dicom-sr", tmp_path / "file", "--dicom-sr"),
    ):
        assert main([str(films), "--weights", str(weights), option, str(place)]) == 2
        assert said in capsys.readouterr().err
    # An ONNX file has no maps for a report; the films are not to blame.
    assert main([str(films), "--weights", "heart.onnx", "--reports", str(tmp_path / "reports")]) == 2
    assert "heart.onnx cannot be explained" in capsys.readouterr().err
    assert (tmp_path / "mine.csv").read_text() == "my,precious\n"
    assert not list(tmp_path.glob("*.unfinished"))
    for _ in range(2):  # its own table is replaced
        assert main([str(films), "--weights", str(weights), "--csv", str(tmp_path / "t.csv")]) == 0


def test_an_interruption_says_how_to_go_on(weights, films, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(HeartDetector, "detect", interrupted)
    arguments = [str(films), "--weights", str(weights), "--csv", str(tmp_path / "t.csv")]
    assert main(arguments) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_films_without_an_ending_are_found_in_a_folder(weights, tmp_path, capsys):
    folder = tmp_path / "films"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (128, 128), dtype=np.uint8)
    (folder / "PICTURE").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    film = film_of(pixels.astype(np.uint16), 12)
    del film.file_meta
    film.save_as(folder / "IM0001", implicit_vr=True, little_endian=True)
    (folder / "lost.dcm").symlink_to(folder / "nowhere.dcm")
    (folder / "README").write_text("words")
    assert main([str(folder), "--weights", str(weights)]) == 0
    printed = capsys.readouterr()
    assert "3 images, 2 answered" in printed.err and "files of other kinds passed over: 1" in printed.err
    assert "lost.dcm\n  there is no such file" in printed.out


def test_names_that_no_file_system_takes_and_words_that_look_like_formulas(weights, tmp_path):
    long = "\N{GREEK SMALL LETTER ALPHA}" * 120  # 240 bytes
    folder = tmp_path / "films"
    folder.mkdir()
    header = film_of(np.random.default_rng(0).integers(0, 4095, (128, 128)).astype(np.uint16), 12)
    header.BodyPartExamined = "KNEE $^^$"
    header.save_as(folder / f"{long}.dcm", enforce_file_format=True)
    arguments = [str(folder), "--weights", str(weights), "--csv", str(tmp_path / "t.csv")]
    arguments += ["--overlays", str(tmp_path / "o"), "--reports", str(tmp_path / "r")]
    assert main(arguments) == 0
    assert len(list((tmp_path / "o").glob("00001-*.png"))) == 1
    assert len(list((tmp_path / "r").iterdir())) == 3


def test_going_on_never_leaves_the_picture_of_another_film(weights, tmp_path, monkeypatch):
    """Pictures are numbered: a film that came meanwhile moves the numbers of those behind it."""
    folder, noise = tmp_path / "films", np.random.default_rng(0)
    for place in ("a/1.png", "b/1.png"):
        (folder / place).parent.mkdir(parents=True)
        cv2.imwrite(str(folder / place), noise.integers(0, 255, (128, 128), dtype=np.uint8))
    arguments = [str(folder), "--weights", str(weights), "--csv", str(tmp_path / "t.csv")]
    arguments += ["--overlays", str(tmp_path / "o")]
    monkeypatch.setattr("heartbox.reporting.detection_plots.draw_detection", lambda found: found.xray.path.as_posix())
    monkeypatch.setattr("heartbox.reporting.plots.save_figure", save_words)
    with monkeypatch.context() as patch:
        patch.setattr("heartbox.inference.archive.Journal.close", interrupt)
        assert main(arguments) == 130
    cv2.imwrite(str(folder / "a" / "0.png"), noise.integers(0, 255, (128, 128), dtype=np.uint8))
    assert main(arguments) == 0
    for number, file in enumerate(pd.read_csv(tmp_path / "t.csv")["file"], start=1):
        assert (tmp_path / "o" / f"{number:05d}-{Path(file).stem}.png").read_text() == file


def save_words(path, words):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(words)


def interrupt(*_):
    raise KeyboardInterrupt


def test_own_pictures_among_the_films_are_no_films(weights, films, tmp_path, capsys):
    arguments = [str(films), "--weights", str(weights), "--csv", str(tmp_path / "t.csv")]
    arguments += ["--overlays", str(films / "deeper")]
    assert main(arguments) == 0
    first = pd.read_csv(tmp_path / "t.csv")
    assert main(arguments) == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), first)  # the film in that folder still among them
    assert "passed over: 3" in capsys.readouterr().err.splitlines()[-1]
    assert main(arguments[:-2]) == 0  # asked for without that folder, they are pictures like others
    assert len(pd.read_csv(tmp_path / "t.csv")) == 5


def test_no_heart_is_said_everywhere(weights, films, tmp_path, capsys, monkeypatch):
    detect = HeartDetector.detect
    turned = [2, 1, 0, 3]  # x_min behind x_max
    monkeypatch.setattr(
        HeartDetector,
        "detect",
        lambda self, source: dataclasses.replace(found := detect(self, source), heart=found.heart[turned]),
    )
    assert main([str(films / "a.png"), "--weights", str(weights)]) == 0
    assert "No heart was found." in capsys.readouterr().out
    assert main([str(films / "a.png"), "--weights", str(weights), "--csv", str(tmp_path / "t.csv")]) == 0
    assert pd.read_csv(tmp_path / "t.csv").filter(like="heart_").isna().all(axis=None)


@pytest.mark.parametrize("option", ["--csv", "--overlays", "--reports"])
def test_what_cannot_be_written_is_said_in_a_line(weights, films, tmp_path, capsys, option):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "below.csv"  # below a file there is no folder
    assert main([str(films), "--weights", str(weights), option, str(place)]) == 2
    assert f"{tmp_path.as_posix()}/file" in capsys.readouterr().err


def test_a_name_that_is_not_utf8_and_cells_that_are_formulas(weights, tmp_path, monkeypatch):
    """A row stays one line, and text stays text in a spreadsheet."""
    folder = tmp_path / "films"
    folder.mkdir()
    monkeypatch.chdir(folder)
    picture = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (128, 128), dtype=np.uint8))[1].tobytes()
    names = ["caf\udce9.png", "=cmd|calc.png", "-x.png", "@y.png", "two\r\nlines.png", "plain.png"]
    for name in names:
        Path(name).write_bytes(picture)
    arguments = [*(f"./{name}" if name.startswith("-") else name for name in names), "--weights", weights]
    assert main([*arguments, "--csv", tmp_path / "t.csv", "--overlays", tmp_path / "o"]) == 0
    table = pd.read_csv(tmp_path / "t.csv", dtype=str)
    assert table["file"].tolist() == [
        "caf\\xe9.png",
        "'=cmd|calc.png",
        "'-x.png",
        "'@y.png",
        "two\\x0d\\x0alines.png",
        "plain.png",
    ]
    assert table["error"].isna().all()
    assert len((tmp_path / "t.csv").read_bytes().splitlines()) == 7
    assert len(list((tmp_path / "o").iterdir())) == 6


def test_a_name_too_long_for_the_disk_is_a_row(weights, films, tmp_path):
    long = "x" * 300 + ".dcm"
    assert main([films / "a.png", long, "--weights", weights, "--csv", tmp_path / "t.csv"]) == 0
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["error"].notna().tolist() == [False, True]


def test_an_unexpected_exception_is_the_row_of_its_film(weights, films, tmp_path, monkeypatch):
    detect = HeartDetector.detect

    def failing(self, path):
        if path.parent.name == "deeper":
            raise RuntimeError("never seen before")
        return detect(self, path)

    monkeypatch.setattr(HeartDetector, "detect", failing)
    log = tmp_path / "log.txt"
    assert main([films, "--weights", weights, "--csv", tmp_path / "t.csv", "--log", log]) == 0
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["error"].notna().tolist() == [False, True, True]
    assert "unexpected RuntimeError: never seen before" in table["error"][2]
    assert "Traceback" in log.read_text() and "deeper/a.png" in log.read_text()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_csv_that_is_a_pipe_or_a_device_is_refused_and_a_link_is_followed(weights, films, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to-null").symlink_to("/dev/null")
    for place in (tmp_path / "pipe", Path("/dev/null"), tmp_path / "to-null"):
        assert main([films, "--weights", weights, "--csv", place]) == 2
        assert "a device or a pipe" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo() and Path("/dev/null").is_char_device()
    (tmp_path / "link.csv").symlink_to(tmp_path / "target.csv")
    assert main([films, "--weights", weights, "--csv", tmp_path / "link.csv"]) == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert len(pd.read_csv(tmp_path / "target.csv")) == 3


def test_what_was_not_reported_is_said_and_not_asked_again(weights, films, tmp_path, monkeypatch, capsys):
    detect, asked = HeartDetector.detect, []

    def counting(self, path):
        asked.append(path.name)
        return detect(self, path)

    monkeypatch.setattr(HeartDetector, "detect", counting)
    arguments = [films, "--weights", weights, "--csv", tmp_path / "t.csv", "--dicom-sr", tmp_path / "sr"]
    with monkeypatch.context() as patch:
        patch.setattr("heartbox.inference.archive.Journal.close", interrupt)
        assert main(arguments) == 130
    first = list(asked)
    assert main(arguments) == 0
    assert asked == [*first, "b.dcm"]  # not the pictures, whose reports were refused; an error may be mended
    lines = capsys.readouterr().err.splitlines()
    said = lines.index("--dicom-sr: 0 of 3 reports written")
    assert len(lines) == said + 4
    assert [name in line for name, line in zip(("a.png", "b.dcm", "deeper/a.png"), lines[said + 1 :], strict=True)] == [
        True
    ] * 3
    assert main([*arguments, "--strict"]) == 1


def test_help_and_version_load_nothing(capsys):
    lines = [
        "import sys",
        "from heartbox.cli import main",
        "try: main(['--help'])",
        "except SystemExit as end: code = end.code",
        "sys.exit(code or bool({'torch', 'pydicom', 'matplotlib', 'pandas', 'numpy'} & set(sys.modules)))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert heartbox.__version__ in capsys.readouterr().out


def test_the_process_that_shares_films_loads_no_torch(weights, films, tmp_path):
    """Only the processes that answer films need it: loading it takes seconds and 400 MB."""
    arguments = [str(films), "--csv", str(tmp_path / "t.csv"), "--weights", str(weights), "--workers", "2"]
    lines = [
        "import sys",
        "from heartbox.cli import main",
        f"code = main({arguments!r})",
        "sys.exit(code or bool({'torch', 'matplotlib'} & set(sys.modules)))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(tmp_path / "t.csv")["error"].isna().tolist() == [True, False, True]


def test_more_workers_than_cores_are_not_started(weights, films, tmp_path, capsys, monkeypatch):
    """Hundreds of processes, each with a network, would stop the machine."""
    asked = []
    monkeypatch.setattr("heartbox.utils.parallel._pool", lambda processes: asked.append(processes) or pool(processes))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert main([films, "--csv", tmp_path / "t.csv", "--weights", weights], workers=400) == 0
    assert set(asked) == {2}
    assert "--workers 400: 2 are used, the most for this machine's cores" in capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "t.csv")) == 3


def test_no_place_for_temporary_files(weights, films, tmp_path, capsys, monkeypatch):
    """A zip's members are unpacked there: one sentence names the folder and the way out."""
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        for path in films.glob("*.png"):
            archive.write(path, path.name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    arguments = [str(tmp_path / "films.zip"), "--weights", str(weights), "--workers", "0"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'gone'}: No such file or directory. Free some space there" in said
    assert "TMPDIR" in said
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "gone")])
    assert main(arguments) == 2
    assert "No usable temporary directory found in" in capsys.readouterr().err


def test_an_empty_name_is_not_the_folder_one_stands_in(capsys):
    """As a script gives it whose variable is unset."""
    with pytest.raises(SystemExit) as ended:
        main([""])
    assert ended.value.code == 2
    assert "an empty name: is a variable of your script unset?" in capsys.readouterr().err
