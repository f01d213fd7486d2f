"""A dask cluster that answers films: workers that are killed, films that kill, and no film lost or answered twice."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from helpers import ROOT
from jobs import Answerer

from heartbox.inference.archive import FilmJob, OutputError, make_jobs
from heartbox.inference.distributed import ClusterError, answer_on_cluster, connect
from heartbox.xray.discovery import XRaySource

distributed = pytest.importorskip("distributed", reason='a cluster is wanted: pip install ".[scale]"')
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the tests end processes by POSIX signals")


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """Return the address of a scheduler with two workers, each a process of its own, as on two machines."""
    folder = tmp_path_factory.mktemp("cluster")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    }
    dask = [sys.executable, "-m", "dask"]
    where = ["--scheduler-file", str(folder / "scheduler.json"), "--no-dashboard"]
    commands = [[*dask, "scheduler", "--port", "0", *where]]
    commands += [[*dask, "worker", "--nthreads", "1", "--local-directory", str(folder / f"{i}"), *where] for i in "ab"]
    with (folder / "log.txt").open("wb") as log:
        processes = [subprocess.Popen(one, env=environment, stdout=log, stderr=log) for one in commands]
    try:
        with distributed.Client(scheduler_file=str(folder / "scheduler.json"), timeout=60) as client:
            client.wait_for_workers(2, timeout=120)
            yield client.scheduler.address
    finally:
        for process in reversed(processes):
            process.kill()  # a worker ends with the process that watches it
            process.wait()


@pytest.fixture
def answerer(tmp_path) -> Answerer:
    (tmp_path / "notes").mkdir()
    return Answerer(tmp_path / "notes")


def jobs_for(names) -> list[FilmJob]:
    return make_jobs([XRaySource(name, Path(name)) for name in names])


def names_with(count: int, **special: int) -> list[str]:
    names = [f"{number}.dcm" for number in range(count)]
    for name, place in special.items():
        names[place] = name
    return names


def kill_one_worker(client, when: threading.Event) -> None:
    when.wait(60)
    process = next(iter(client.run(os.getpid).values()))
    os.kill(process, signal.SIGKILL)


def test_a_killed_worker_and_a_film_that_kills_lose_no_film_and_double_none(scheduler, answerer):
    names = names_with(200, kills=77)
    half_way, seen, crashes = threading.Event(), Counter(), {}
    slow = Answerer(answerer.notes, 0.02)
    with connect(scheduler, 0) as client:
        killing = threading.Thread(target=kill_one_worker, args=(client, half_way))
        killing.start()
        for place, outcome in answer_on_cluster(client, jobs_for(names), slow):
            assert outcome.name == names[place]
            seen[place] += 1
            if outcome.problem:
                crashes[outcome.name] = outcome.problem
            if len(seen) >= 100:
                half_way.set()
        killing.join()
    assert seen == Counter(range(200))
    assert {name: problem.kind for name, problem in crashes.items()} == {"kills": "crash"}
    assert crashes["kills"].reason.startswith("no answer: its worker died twice while it did nothing else")
    tries = answerer.tries()
    assert tries["kills"] in (2, 3)  # twice alone, and before that, unless the worker was killed first, with others
    assert set(tries) == set(names) and max(tries.values()) <= 3


@pytest.mark.parametrize(
    ("film", "error", "said"),
    [("full", OutputError, "the disk is full"), ("odd", ClusterError, "cannot answer films .ZeroDivisionError: a wor")],
)
def test_what_would_meet_every_film_ends_the_run(scheduler, answerer, film, error, said):
    with connect(scheduler, 0) as client, pytest.raises(error, match=said):
        list(answer_on_cluster(client, jobs_for(names_with(20, **{film: 5})), answerer))


def test_a_cluster_on_this_machine_gives_the_killing_film_two_tries_alone(answerer):
    with connect(None, 2) as client:
        # Set as Dask sets it, it makes the network half as slow again: see connect.
        assert set(client.run(os.environ.get, "MALLOC_TRIM_THRESHOLD_").values()) == {None}
        assert len(client.run(os.getpid)) == 2
        outcomes = dict(answer_on_cluster(client, jobs_for(names_with(40, kills=20)), answerer))
    assert [place for place in range(40) if outcomes[place].problem] == [20]
    assert len(outcomes) == 40 and answerer.tries()["kills"] == 3  # once with others, twice alone


def test_no_scheduler_is_said_in_a_sentence(monkeypatch):
    monkeypatch.setattr("heartbox.inference.distributed.WAIT_SECONDS", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        started = time.monotonic()
        with pytest.raises(ClusterError, match=f"{address}: no dask scheduler"), connect(address, 0):
            pass
        assert time.monotonic() - started < 60


def test_without_dask_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match=r"In the folder of Heartbox: .*\[scale\]"), connect(None, 1):
        pass
