"""What other software says of the reports: David Clunie's dciodvfy, dcmtk's dsrdump and an Orthanc archive.

Each test is skipped where its program is not installed (Debian: dicom3tools, dcmtk, orthanc, orthanc-dicomweb).
"""

import dataclasses
import hashlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import matplotlib.pyplot as plt
import pydicom
import pytest
from helpers import ROOT

from heartbox.inference.detector import HeartDetector
from heartbox.phantom import write_phantoms
from heartbox.reporting.detection_plots import draw_detection
from heartbox.reporting.dicom_sr import write_measurement_report, write_secondary_capture

ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin")
DICOMWEB = next(Path("/usr").glob("share/orthanc/plugins/libOrthancDicomWeb.so"), None)
START_SECONDS = 60  # against hangs only; it takes one or two


@pytest.fixture(scope="module")
def detector() -> HeartDetector:
    return HeartDetector.from_weights(ROOT / "weights" / "heart-resnet18.pt")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, 2, size=256, progress=False)
    return sorted(folder.rglob("*.dcm"))


def write_both(detector, film: Path, folder: Path) -> tuple[Path, Path]:
    """Write report and overlay of a film, whatever the flags say: their form is looked at here, not the answer."""
    found = dataclasses.replace(detector.detect(film), warnings=())
    figure = draw_detection(found)
    report = write_measurement_report(folder / f"{film.stem}-sr.dcm", film, found)
    overlay = write_secondary_capture(folder / f"{film.stem}-sc.dcm", film, figure, found.weights)
    plt.close(figure)
    return report, overlay


def complaints(*command) -> list[str]:
    """Return the errors that a validator prints."""
    run = subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace", timeout=60)
    errors = [line for line in (run.stdout + run.stderr).splitlines() if line.startswith(("Error", "E:", "F:"))]
    return errors + ([f"exit code {run.returncode}"] if run.returncode else [])


def check(detector, films, folder) -> None:
    for film in films:
        report, overlay = write_both(detector, film, folder)
        assert complaints("dciodvfy", report) == [], film.name
        assert complaints("dciodvfy", overlay) == [], film.name
        assert complaints("dsrdump", report) == [], film.name


needs_validators = pytest.mark.skipif(
    not (shutil.which("dciodvfy") and shutil.which("dsrdump")), reason="dicom3tools and dcmtk are not installed"
)


@needs_validators
def test_validators_accept_the_reports_of_phantoms(detector, phantoms, tmp_path):
    check(detector, phantoms, tmp_path)


@needs_validators
def test_validators_accept_the_reports_of_real_films(detector, real_data, tmp_path):
    films = sorted((real_data / "dicom").glob("*.dcm"))
    check(detector, films, tmp_path)
    assert len(films) == 16


@needs_validators
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_validators_accept_the_reports_of_odd_headers(detector, phantoms, tmp_path, monkeypatch):
    """Several frames, of a kind that has them and of one that has not, and identifiers that are not valid."""
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
    changes = [
        {"NumberOfFrames": 2},
        {"NumberOfFrames": 2, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.12.2"},
        {"StudyInstanceUID": "1.02.3", "SeriesInstanceUID": "x", "SOPInstanceUID": "1.2."},
    ]
    films = [tmp_path / f"odd-{i}.dcm" for i in range(len(changes))]
    for path, elements in zip(films, changes, strict=True):
        odd = pydicom.dcmread(phantoms[0])
        odd.PixelData *= elements.get("NumberOfFrames", 1)
        for keyword, value in elements.items():
            setattr(odd, keyword, value)
        odd.save_as(path)
    check(detector, films, tmp_path)


@needs_validators
def test_the_validators_do_complain_of_what_is_wrong(detector, phantoms, tmp_path):
    report, overlay = write_both(detector, phantoms[0], tmp_path)
    for path in (report, overlay):
        broken = pydicom.dcmread(path)
        del broken.StudyInstanceUID
        broken.save_as(path)
        assert complaints("dciodvfy", path)


@pytest.fixture
def orthanc(tmp_path):
    """Start an archive on a free port of this machine, and yield its address."""
    if not ORTHANC or not DICOMWEB:
        pytest.skip("Orthanc with its DICOMweb plugin is not installed")
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        http, dicom = one.getsockname()[1], other.getsockname()[1]
    settings = {
        "Name": "test",
        "StorageDirectory": str(tmp_path / "storage"),
        "IndexDirectory": str(tmp_path / "index"),
        "HttpPort": http,
        "DicomPort": dicom,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(DICOMWEB)],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (tmp_path / "orthanc.log").open("wb") as log:
        server = subprocess.Popen([ORTHANC, str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{http}"
        for _ in range(10 * START_SECONDS):
            try:
                ask(f"{address}/system")
                break
            except OSError:
                if server.poll() is not None:
                    pytest.fail((tmp_path / "orthanc.log").read_text(errors="replace"))
                time.sleep(0.1)
        else:
            pytest.fail("the archive did not answer")
        yield address
    finally:
        server.terminate()
        server.wait(timeout=START_SECONDS)


def ask(address: str, data: bytes | None = None, **headers: str) -> bytes:
    request = urllib.request.Request(address, data, {name.replace("_", "-"): value for name, value in headers.items()})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine, never by way of a proxy
    with opener.open(request, timeout=START_SECONDS) as answer:
        return answer.read()


def store(address: str, path: Path) -> dict:
    """Store a file by DICOMweb (STOW-RS, PS3.18 10.5) and return the archive's answer."""
    edge = "heartbox-boundary"
    body = (
        f"--{edge}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        + path.read_bytes()
        + f"\r\n--{edge}--\r\n".encode()
    )
    kind = f'multipart/related; type="application/dicom"; boundary={edge}'
    return json.loads(ask(f"{address}/dicom-web/studies", body, Content_Type=kind, Accept="application/dicom+json"))


def test_an_archive_keeps_film_report_and_overlay_in_one_study(detector, phantoms, tmp_path, orthanc):
    film = phantoms[0]
    report, overlay = write_both(detector, film, tmp_path)
    sent = [film, report, overlay]
    for path in sent:
        answer = store(orthanc, path)
        assert len(answer["00081199"]["Value"]) == 1  # Referenced SOP Sequence: stored
        assert not answer.get("00081198", {}).get("Value")  # Failed SOP Sequence
    (study,) = json.loads(ask(f"{orthanc}/studies?expand"))
    assert study["MainDicomTags"]["StudyInstanceUID"] == pydicom.dcmread(film).StudyInstanceUID
    kinds = {json.loads(ask(f"{orthanc}/series/{one}"))["MainDicomTags"]["Modality"] for one in study["Series"]}
    assert {"SR", "OT"} < kinds
    instances = json.loads(ask(f"{orthanc}/studies/{study['ID']}/instances"))
    kept = {hashlib.sha256(ask(f"{orthanc}/instances/{one['ID']}/file")).hexdigest() for one in instances}
    assert kept == {hashlib.sha256(path.read_bytes()).hexdigest() for path in sent}


def test_an_archive_collects_no_copies(detector, phantoms, tmp_path, orthanc):
    for folder in (tmp_path / "first", tmp_path / "again"):
        for path in write_both(detector, phantoms[0], folder):
            store(orthanc, path)
    assert json.loads(ask(f"{orthanc}/statistics"))["CountInstances"] == 2
