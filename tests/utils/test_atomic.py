"""Files are complete or absent, and nothing is written over what is read."""

import pytest

from heartbox.utils.atomic import complete_or_absent, keep_apart


def test_a_file_is_there_when_it_is_whole(tmp_path):
    with complete_or_absent(tmp_path / "new" / "table.csv") as part:
        part.write_text("half")
        assert not (tmp_path / "new" / "table.csv").exists()
        assert part.suffix == ".csv"  # some writers choose the format by it
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.csv"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "table.csv").write_text("old")
    with pytest.raises(ZeroDivisionError), complete_or_absent(tmp_path / "table.csv") as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "table.csv").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_not_written_over_itself(tmp_path):
    keep_apart(tmp_path / "raw", tmp_path / "out")
    with pytest.raises(ValueError, match="where the raw files lie"):
        keep_apart(tmp_path / "raw", tmp_path / "out" / ".." / "raw")
