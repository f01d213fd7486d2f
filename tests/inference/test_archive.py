"""A run over many films: its journal, and films that take their process along."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from heartbox.data.tables import Problem
from heartbox.inference.archive import FilmJob, Journal, Outcome, OutputError, make_jobs, run_films
from heartbox.xray.discovery import XRaySource


def jobs_for(folder: Path, count: int) -> list[FilmJob]:
    paths = [folder / f"{number}.dcm" for number in range(count)]
    for path in paths:
        path.write_text("film")
    return make_jobs([XRaySource(path.as_posix(), path) for path in paths])


def answer(job: FilmJob) -> Outcome:
    return Outcome(job.source.name, {"file": job.source.name, "ctr": 0.5})


class CrashesAt:
    """Answers, but ends the whole process at one film, or raises what cannot be pickled at another."""

    def __init__(self, crash: str, parent: int):
        self.crash, self.parent = crash, parent

    def __call__(self, job: FilmJob) -> Outcome:
        if job.source.path.name == self.crash:
            assert os.getpid() != self.parent
            os.abort()
        return answer(job)


def test_a_film_that_ends_its_process_costs_itself_alone(tmp_path):
    jobs = jobs_for(tmp_path, 6)
    outcomes = run_films(jobs, CrashesAt("3.dcm", os.getpid()))
    assert [outcome.name for outcome in outcomes] == [job.source.name for job in jobs]
    assert [outcome.problem.kind if outcome.problem else None for outcome in outcomes] == [None] * 3 + ["crash"] + [
        None
    ] * 2
    assert str(outcomes[3].problem).startswith(f"{jobs[3].source.name}: no answer: ")


def test_the_journal_gives_back_what_was_noted_for_the_same_film_and_weights(tmp_path):
    (first, second, third) = jobs_for(tmp_path, 3)
    csv = tmp_path / "t.csv"
    journal = Journal(csv, "a" * 64)
    noted = replace(answer(first), refused={"sr": "it is a picture"}, tracebacks="long")
    journal.note(first, noted)
    journal.note(second, answer(second))
    journal.note(third, Outcome(third.source.name, problem=Problem("x", "unreadable", "x: cut off")))
    second.source.path.write_text("another film")
    again = Journal(csv, "a" * 64)
    assert again.recall(first) == replace(noted, tracebacks="")
    assert again.recall(replace(first, stem="other")) is None
    assert again.recall(second) is None  # another file by now
    assert again.recall(third) is None  # its cause may be mended
    assert Journal(csv, "b" * 64).recall(first) is None
    assert again.message == ""


@pytest.mark.parametrize(
    ("damage", "reported"),
    [
        (lambda data: data[:-30], False),  # what a kill leaves
        (lambda data: data[:-30] + b"\0" * 30, True),  # what a power cut leaves
        (lambda data: b"\x89PNG\r\n\x1a\n" + data, True),
        (lambda data: data + b'{"key": "of an old version"}\n', True),
        (lambda data: data.replace(b"0.5", b"0.6"), False),  # flipped bits: those films are asked again
    ],
)
def test_a_damaged_journal_is_set_aside_and_its_sound_lines_are_used(tmp_path, damage, reported):
    jobs = jobs_for(tmp_path, 4)
    journal = Journal(tmp_path / "t.csv", "a" * 64)
    for job in jobs:
        journal.note(job, answer(job))
    data = damage(journal.path.read_bytes())
    journal.path.write_bytes(data)
    for _ in range(2):
        again = Journal(tmp_path / "t.csv", "a" * 64)
        recalled = [again.recall(job) for job in jobs]
        assert all(outcome in (None, answer(job)) for job, outcome in zip(jobs, recalled, strict=True))
        assert any(recalled) == (b"0.6" not in data)
        assert bool(again.message) == reported
        assert "t.csv.unfinished" in again.message or not reported
        reported = False  # it was set aside
    aside = tmp_path / "t.csv.unfinished.damaged"
    assert not aside.exists() or aside.read_bytes() == data


def test_a_resumed_run_asks_only_for_what_is_missing(tmp_path):
    jobs, asked = jobs_for(tmp_path, 5), []

    def counting(job: FilmJob) -> Outcome:
        asked.append(job.source.path.name)
        return answer(job)

    journal = Journal(tmp_path / "t.csv", "a" * 64)
    journal.note(jobs[1], answer(jobs[1]))
    journal.note(jobs[2], replace(answer(jobs[2]), refused={"sr": "flagged"}))
    again = Journal(tmp_path / "t.csv", "a" * 64)
    outcomes = run_films(jobs, counting, again, lambda job, outcome: bool(outcome.refused), workers=0)
    assert asked == ["0.dcm", "1.dcm", "3.dcm", "4.dcm"]
    assert [outcome.name for outcome in outcomes] == [job.source.name for job in jobs]


def test_a_full_disk_ends_the_run(tmp_path):
    def full(job: FilmJob) -> Outcome:
        return Outcome(job.source.name, fatal="o/1.png: cannot be written (No space left on device)")

    with pytest.raises(OutputError, match="No space left"):
        run_films(jobs_for(tmp_path, 2), full, workers=0)


def test_tracebacks_go_to_the_log(tmp_path):
    def odd(job: FilmJob) -> Outcome:
        return replace(answer(job), tracebacks="Traceback (most recent call last): ...")

    run_films(jobs_for(tmp_path, 2), odd, workers=0, log=tmp_path / "logs" / "log.txt")
    assert (tmp_path / "logs" / "log.txt").read_text().count("Traceback") == 2


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a/jane doe.png", "00001-jane doe"),
        ("a/caf\udce9.png", "00001-caf_xe9"),
        ("a/b:c?.dcm", "00001-b_c_"),
        ("a/\r\n.dcm", "00001-_x0d_x0a"),
        ("a/" + "α" * 120 + ".dcm", "00001-" + "α" * 50),
    ],
)
def test_names_of_outputs_are_names_that_every_disk_takes(name, stem):
    (job,) = make_jobs([XRaySource(name, Path(name))])
    assert job.stem == stem
