"""Jobs shared among processes: order, failures, and what happens to a process that dies."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT
from jobs import DiesTwice, threads, work

from heartbox.utils.parallel import Failure, parallel_map


def numbers(results) -> list[int]:
    return [result[0] for result in results if not isinstance(result, Failure)]


@pytest.mark.parametrize("processes", [1, 2])
def test_each_failure_is_its_job_s_alone(processes):
    results = list(parallel_map(work, range(20), "work", processes=processes, progress=False, keep_going=True))
    assert len(results) == 20
    assert numbers(results) == [job for job in range(20) if job not in (3, 8, 11, 14)]
    assert [results[job].died for job in (3, 8, 11, 14)] == [True, False, True, False]
    assert results[8].message == "ValueError: eight is refused"
    assert "in work" in results[8].traceback
    assert os.getpid() not in [result[1] for result in results if not isinstance(result, Failure)]


def test_a_job_whose_process_is_ended_by_something_else_is_tried_again(tmp_path):
    """Both ends, of the shared process and of the one where it runs by itself, come from outside: it is not blamed."""
    results = list(parallel_map(DiesTwice(tmp_path), range(3), "work", processes=2, progress=False, keep_going=True))
    assert results == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 2


def test_many_dying_jobs_in_a_row():
    results = list(parallel_map(work, [3] * 4 + [1] + [3] * 2, "work", processes=2, progress=False, keep_going=True))
    assert [isinstance(result, Failure) for result in results] == [True] * 4 + [False] + [True] * 2


def test_without_keep_going_the_first_exception_ends_the_run():
    for processes in (1, 2):
        with pytest.raises(ValueError, match="eight"):
            list(parallel_map(work, [1, 2, 8, 4], "work", processes=processes, progress=False))
    with pytest.raises(RuntimeError, match="died"):
        list(parallel_map(work, [1, 3], "work", processes=2, progress=False))


def test_a_handful_of_jobs_needs_no_other_process():
    assert [result[1] for result in parallel_map(work, [1, 2], "work", progress=False)] == [os.getpid()] * 2
    with pytest.raises(ValueError, match="processes must be at least 1"):
        list(parallel_map(work, [1], "work", processes=0))


def test_the_processes_do_not_start_threads_of_their_own():
    assert list(parallel_map(threads, range(4), "work", processes=2, progress=False)) == [1] * 4


def test_a_caller_that_stops_early_ends_the_run():
    results = parallel_map(work, [1, 2, 4, 5] * 10, "work", processes=2, progress=False, keep_going=True)
    assert next(results)[0] == 1
    results.close()
    assert numbers(parallel_map(work, [1, 2], "work", processes=2, progress=False)) == [1, 2]


def test_a_bar_counts_the_jobs(capsys):
    list(parallel_map(work, [1, 2], "Films", progress=True))
    assert "Films: 100%" in capsys.readouterr().out


SCRIPT = """
from heartbox.utils.parallel import Failure, parallel_map

print("once")

def square(n):
    return n * n

print(list(parallel_map(square, range(4), "work", processes=2, progress=False)))
"""


def test_scripts_need_no_main_guard(tmp_path):
    """Neither as a file nor on standard input; their own functions may be the jobs."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for arguments in (["script.py"], ["-"]):
        run = subprocess.run(
            [sys.executable, *arguments], input=SCRIPT, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert (run.stdout, run.stderr) == ("once\n[0, 1, 4, 9]\n", "")


def openmp_threads(_: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


@pytest.mark.parametrize(("chosen", "expected"), [("", str(max(1, (os.cpu_count() or 1) // 2))), ("3", "3")])
def test_processes_share_the_cores_unless_the_user_says_how(monkeypatch, chosen, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    seen = parallel_map(openmp_threads, range(4), "", processes=2, progress=False)
    assert set(seen) == {expected}
