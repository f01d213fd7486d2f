"""Errors in one sentence, and pictures that keep a notebook small."""

import base64
import io

import cv2
import matplotlib.pyplot as plt
import nbclient
import nbformat
import numpy as np
import pytest
from helpers import ROOT, user_environment
from PIL import Image

from heartbox.utils.notebook import StopHere, in_one_sentence, shrink_pictures, small_png


def test_an_error_for_the_reader_is_one_sentence():
    with pytest.raises(StopHere) as stopped, in_one_sentence(ValueError):
        raise ValueError("film.dcm: cut off; fetch it again")
    assert stopped.value._render_traceback_() == ["film.dcm: cut off; fetch it again"]
    with pytest.raises(KeyError), in_one_sentence(ValueError):
        raise KeyError("a fault of ours keeps its traceback")


def test_a_small_picture_is_the_picture():
    figure, ax = plt.subplots()
    ax.imshow(np.random.default_rng(0).random((200, 200)), cmap="gray")
    full = io.BytesIO()
    figure.savefig(full, format="png", bbox_inches="tight")
    small = small_png(figure)
    plt.close(figure)
    assert len(small) < 0.7 * len(full.getvalue())
    first, second = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), float) for png in (full.getvalue(), small))
    assert np.abs(first - second).mean() < 3


def test_the_colours_of_a_map_keep_their_order_beside_many_greys():
    figure, ax = plt.subplots()
    ax.imshow(cv2.GaussianBlur(np.random.default_rng(0).random((400, 400)), (0, 0), 3), cmap="gray")
    signed = cv2.GaussianBlur(np.random.default_rng(1).normal(size=(400, 400)), (0, 0), 12)
    strength = np.abs(signed) / np.abs(signed).max()
    figure.colorbar(ax.imshow(signed, cmap="PRGn", alpha=0.75 * strength))
    full = io.BytesIO()
    figure.savefig(full, format="png", bbox_inches="tight")
    small = small_png(figure)
    plt.close(figure)
    first, second = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), float) for png in (full.getvalue(), small))
    assert np.abs(first - second).max() < 16  # of 255; a scale whose colours change places is off by 30


def test_outside_jupyter_nothing_happens():
    shrink_pictures()


def test_in_jupyter_pictures_have_a_palette():
    cells = [
        f"import sys; sys.path.insert(0, {str(ROOT)!r})",
        "import matplotlib.pyplot as plt\nfrom heartbox.utils.notebook import shrink_pictures\nshrink_pictures()",
        "figure, ax = plt.subplots()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    nbclient.NotebookClient(notebook, kernel_name="python3").execute(env=user_environment())
    png = base64.b64decode(notebook.cells[-1].outputs[0].data["image/png"])
    assert Image.open(io.BytesIO(png)).mode == "P"
