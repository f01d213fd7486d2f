"""The pneumonia companion's embedded sample: RSNA's layout, the same bytes each time, opacities where boxes are."""

import numpy as np
import pydicom

from companions.pneumonia import layouts
from companions.pneumonia.layouts import list_xrays
from companions.pneumonia.sample import OpacityPlanter, write_sample
from heartbox.phantom import render, sample_subject


def test_the_sample_is_rsna_in_form_and_the_same_each_time(tmp_path):
    folder = write_sample(tmp_path / "one", count=6, size=64, processes=1, progress=False)
    write_sample(tmp_path / "two", count=6, size=64, processes=1, progress=False)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert all((folder / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
    assert layouts.recognise_layout(folder) == "sample"
    films, problems = list_xrays(folder)
    assert problems == []
    assert {film.target for film in films} == {0, 1}
    assert all(bool(film.boxes) == bool(film.target) for film in films)
    header = pydicom.dcmread(films[0].path)
    assert header.SOPInstanceUID == header.file_meta.MediaStorageSOPInstanceUID
    assert header.ViewPosition in ("AP", "PA")
    stamp = films[0].path.stat().st_mtime_ns
    write_sample(folder, count=6, size=64, processes=1, progress=False)
    assert films[0].path.stat().st_mtime_ns == stamp
    write_sample(folder, count=5, size=64, processes=1, progress=False)  # fewer are asked for than there are
    assert films[0].path.stat().st_mtime_ns == stamp
    write_sample(folder, count=2, seed=1, size=64, processes=1, progress=False)
    assert len(list((folder / layouts.RSNA_IMAGES).iterdir())) == 2


def test_an_opacity_brightens_its_box_and_little_else(tmp_path):
    planter = OpacityPlanter(np.random.default_rng(5))
    subject = sample_subject(0, 3)
    ill, healthy = render(subject, 256, planter).image, render(subject, 256).image
    inside = np.zeros((256, 256), dtype=bool)
    for x_min, y_min, x_max, y_max in np.rint(np.array(planter.boxes) * 256).astype(int):
        inside[y_min:y_max, x_min:x_max] = True
    change = ill - healthy
    assert change[inside].mean() > 0.04
    assert change[inside].mean() > 8 * np.abs(change[~inside]).mean()
