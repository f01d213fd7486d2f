"""The benchmark of speed: how it times, and how its pieces become one table."""

import json

import pytest
import speed


def test_works_take_turns_and_the_first_round_does_not_count():
    order, ticks = [], iter(range(1000))
    works = {name: lambda name=name: order.append(name) for name in ("bare", "work")}
    seconds = speed.by_turns(works, 3, clock=lambda: next(ticks) * (10 if len(order) < 2 else 1))
    assert order == ["bare", "work"] * 4
    assert seconds == {"bare": 1, "work": 1}
    assert speed.ratio({"bare": 2.0, "work": 3.0}, "work") == "1.50"


def test_sections_measured_apart_become_one_table(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "PARTS", tmp_path)
    for name in ("detect", "start"):
        part = {"conditions": f"conditions of {name}", "rows": [[name, "bare work", "1.23"]]}
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    lines = list(speed.table())
    assert lines.index("| start | bare work | 1.23 |") < lines.index("## Detect") < lines.index("conditions of detect")
    assert "## Training" not in lines


def test_an_earlier_version_has_a_column_where_it_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "PARTS", tmp_path)
    rows, before = [["old work", "bare", "1.10"], ["new work", "bare", "1.20"]], [["old work", "bare", "3.00"]]
    part = {"conditions": "two cores", "rows": rows, "before": before}
    (tmp_path / "detect.json").write_text(json.dumps(part))
    lines = list(speed.table())
    assert lines[-4:] == [
        "| work | bare work | before | ratio |",
        "|---|---|---|---|",
        "| old work | bare | 3.00 | 1.10 |",
        "| new work | bare | - | 1.20 |",
    ]


def test_every_kind_of_film_decodes_to_the_same_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "SIDE", 96)
    monkeypatch.setattr(speed.fuzz_reading, "pixels", None)
    speed.phantom_pixels.cache_clear()
    films = speed.write_films(tmp_path)
    expected = speed.phantom_pixels()
    for name, shift in (("uncompressed, 12 bits", 0), ("uncompressed, 8 bits", 4), ("JPEG Lossless SV1", 0)):
        assert (speed.bare_decode(films[name]) == expected >> shift).all()
    with pytest.raises(SystemExit):
        monkeypatch.setattr("sys.argv", ["speed.py", "nothing"])
        speed.main()
