"""The atrium notebook as its users run it: on its sample, and on a folder with a damaged file."""

import json

import numpy as np
import pytest
from helpers import copy_companion, execute, make_atrium, output_of

from companions.atrium.model import load_unet

NOTEBOOK = "companions/Atrium-Segmentation.ipynb"


@pytest.mark.slow
def test_the_notebook_on_its_sample(solved_companion):
    folder = solved_companion(NOTEBOOK)
    output = output_of(folder / NOTEBOOK)
    assert "synthetic hearts" in output
    assert str(folder) not in output
    made = folder / "artifacts" / "atrium"
    metrics = json.loads((made / "metrics.json").read_text())
    assert [len(metrics["subjects"]), metrics["train"], metrics["epochs"]] == [2, 6, 2]
    assert 0 < metrics["mean_mask"]["dice"] < 1
    assert (made / "through-a-heart.gif").read_bytes()[:6] == b"GIF89a"
    assert load_unet(made / "model.pt")[0].config["width"] == 16
    assert len(list((folder / "data" / "atrium-sample" / "imagesTr").iterdir())) == 20


@pytest.mark.slow
def test_the_notebook_on_npz_files_with_a_damaged_one(tmp_path):
    folder, data = copy_companion(tmp_path / "copy"), tmp_path / "mine"
    data.mkdir()
    for i in range(5):
        image, mask = make_atrium(i, (12, 64, 64))
        np.savez(data / f"subject_{i:02d}.npz", image=image, mask=mask)
    (data / "subject_05.npz").write_bytes(b"cut off")
    run = execute(folder, [NOTEBOOK], CARDIAC_DATA=str(data), CARDIAC_ARTIFACTS=str(tmp_path / "out"))
    assert run.returncode == 0, run.stderr[-3000:]
    output = output_of(folder / NOTEBOOK)
    assert "5 volumes, 1 problem" in output
    assert "subject_05.npz" in output
    assert not (folder / "data").exists()
    assert not json.loads((tmp_path / "out" / "atrium" / "metrics.json").read_text())["sample"]
