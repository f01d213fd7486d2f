"""Checked reading of csv files: what is understood, what is refused, and with which words."""

import pytest

from heartbox.data.tables import Problem, TableError, read_table, write_problems


def read(tmp_path, content: str | bytes, encoding: str = "utf-8"):
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return read_table(path, ["name", "width"], text=["name"])


def test_text_stays_text_and_numbers_are_numbers(tmp_path):
    table = read(tmp_path, "name,width,more\n007, 3,x\nNA,,\n , 4.5,y\n")
    assert table["name"].tolist() == ["007", "NA", ""]
    assert table["width"].tolist()[::2] == [3.0, 4.5]
    assert table["width"].isna().tolist() == [False, True, False]
    assert table["more"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffname,width\n1,2\n",  # with a byte-order mark, as spreadsheets write it
        " Name , WIDTH\n1,2\n",
        "name,width\n1,2,\n",  # a comma closes each row
        "name,width,\n1,2,\n",
        "width,name\n2,1",
        "name,width\r\n1,2\r\n",
        "name,width\n\n1,2\n",
        'name,width\n"1","2"\n',
    ],
)
def test_what_spreadsheets_write_is_understood(tmp_path, content):
    table = read(tmp_path, content)
    assert table[["name", "width"]].to_numpy().tolist() == [["1", 2]]


def test_a_short_row_has_empty_cells(tmp_path):
    table = read_table(_write(tmp_path, "width,name\n2\n"), ["width", "name"], text=["name"])
    assert table.to_numpy().tolist() == [[2, ""]]


def test_a_header_alone_is_an_empty_table(tmp_path):
    assert len(read(tmp_path, "name,width\n")) == 0


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "cannot be read"),
        (bytes(range(256)), "cannot be read"),
        ("name,width\n1,2\n".encode("utf-16"), "cannot be read"),
        ('name,width\n"1,2\n', "cannot be read"),
        ("name,width\n1,2\n1,2,3\n", "cannot be read"),
        ("name,width\n1,2,3\n1,2,3\n", "more cells"),
        ("name,high\n1,2\n", "column width is missing"),
        ("name;width\n1;2\n", "semicolons"),
        ("name,width,width\n1,2,3\n", "column width appears more than once"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_file_and_the_way_out(tmp_path, content, fault):
    with pytest.raises(TableError, match=f"table.csv: .*{fault}") as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert "comma" in str(caught.value) or "keep one" in str(caught.value)


def test_a_missing_file_is_a_table_error(tmp_path):
    with pytest.raises(TableError, match="absent.csv"):
        read_table(tmp_path / "absent.csv", ["name"])


def test_problems_are_written_with_their_kind(tmp_path):
    problems = [Problem("film-1", "box", "it is empty, or so it seems"), Problem("film-2", "crash", "died")]
    table = write_problems(tmp_path / "out" / "skipped.csv", problems)
    assert list(table.columns) == ["name", "kind", "reason"]
    again = read_table(tmp_path / "out" / "skipped.csv", ["name", "kind", "reason"], text=["name", "kind", "reason"])
    assert [tuple(row) for row in again.to_numpy()] == problems
    assert str(problems[0]) == "film-1: it is empty, or so it seems"
    assert write_problems(tmp_path / "out" / "skipped.csv", []).empty


def _write(folder, content: str):
    (folder / "table.csv").write_text(content)
    return folder / "table.csv"
