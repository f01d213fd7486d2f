"""The ChestX-Det companion's embedded sample: findings where their boxes say, the same bytes each time."""

import numpy as np
import pytest

from companions.chestxdet.layouts import match_images, read_annotations
from companions.chestxdet.sample import PLANTED, Planter, write_sample
from heartbox.phantom import render, sample_subject


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_planted_findings_are_where_their_boxes_say(name):
    """The film with and without the finding differ inside the box, and hardly elsewhere."""
    subject, planter = sample_subject(0, 4), Planter((name,), 0, 4)
    with_it, without = render(subject, 224, planter).image, render(subject, 224).image
    (found, box), *others = planter.findings
    assert (found, others) == (name, [])
    x0, y0, x1, y1 = np.rint(box * 224).astype(int)
    change = np.abs(with_it - without)
    outside = np.ones_like(change, dtype=bool)
    outside[max(y0 - 4, 0) : y1 + 4, max(x0 - 4, 0) : x1 + 4] = False
    assert np.quantile(change[y0:y1, x0:x1], 0.9) > 5 * change[outside].mean()
    assert change[y0:y1, x0:x1].max() > 0.04
    darker = (with_it - without)[y0:y1, x0:x1].mean() < 0
    assert darker == (name == "Pneumothorax") or name == "Fracture"


def test_a_planter_without_findings_changes_nothing():
    subject = sample_subject(0, 1)
    assert np.array_equal(render(subject, 64).image, render(subject, 64, Planter((), 0, 1)).image)


def test_sample_is_the_same_again_and_made_anew_when_asked_otherwise(tmp_path):
    write_sample(tmp_path / "a", 4, 2, size=64, processes=1, progress=False)
    write_sample(tmp_path / "b", 4, 2, size=64, processes=1, progress=False)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 9
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)
    write_sample(tmp_path / "a", 2, 2, size=64, processes=1, progress=False)
    films, problems = match_images(tmp_path / "a", read_annotations(tmp_path / "a")[0])
    assert (len(films), problems) == (4, [])
    with pytest.raises(ValueError, match="even"):
        write_sample(tmp_path / "c", 3, 2)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.json").write_text("[]")
    with pytest.raises(FileExistsError, match="other than the sample's"):
        write_sample(tmp_path / "d", 4, 2)
