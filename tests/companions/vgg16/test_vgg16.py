"""The VGG16 companion: its loader on the real form and on bad input, its measures by hand, the notebook as run."""

import dataclasses
import os
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, execute, output_of

from cardiac_dataset import CardiacDataset
from companions.vgg16.data import export_npy, find_npy_folder, is_npy_folder, prepare_npy, read_npy, write_sample
from companions.vgg16.model import (
    RECIPES,
    build,
    compare,
    differ,
    difference_by_layer,
    load_sides,
    train_vgg,
    variation,
)
from heartbox.data.prepare import prepare
from heartbox.models.build import build_model
from heartbox.models.weights import load_weights, save_weights

NOTEBOOK = "VGG16-Heart-Detection.ipynb"


def make_folder(folder, films=8, shape=(40, 48), sides=("",), columns="corners"):
    """Write a folder in the real form: images of noise, boxes that are known."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(films):
        place = folder / "images" / sides[i % len(sides)]
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"film{i}.npy", rng.random(shape).astype(np.float16))
        rows.append({"name": f"film{i}", "x_min": 4 + i, "y_min": 8, "x_max": 24 + i, "y_max": 32})
    table = pd.DataFrame(rows)
    if columns == "sizes":
        table = table.assign(x0=table.x_min, y0=table.y_min, w=20, h=24)[["name", "x0", "y0", "w", "h"]]
    table.to_csv(folder / "boxes.csv", index=False)
    return folder


def change(folder, **columns):
    """Change values of the first row of the csv."""
    table = pd.read_csv(folder / "boxes.csv").assign(label="heart").astype(object)
    for column, value in columns.items():
        table.loc[0, column] = value
    table.to_csv(folder / "boxes.csv", index=False)


# ---------------------------------------------------------------- the real form


@pytest.mark.parametrize("columns", ["corners", "sizes"])
def test_images_and_boxes_are_resized_together(tmp_path, columns):
    done = prepare_npy(make_folder(tmp_path / "raw", columns=columns), tmp_path / "out", size=96)
    assert list(done.labels["name"]) == [f"film{i}" for i in range(8)]
    assert len(done.skipped) == 0
    # 48 columns become 96 and 40 rows become 96
    first = done.labels.filter(like="heart_").iloc[0].to_numpy()
    assert first == pytest.approx([8, 8 * 2.4, 48, 32 * 2.4])
    assert sorted(done.labels["split"].unique()) == ["train", "val"]
    x, box = CardiacDataset(tmp_path / "out", "train")[0]
    assert x.shape == (1, 96, 96)
    assert torch.isfinite(x).all()
    assert box.shape == (4,)


def test_folders_say_the_split(tmp_path):
    done = prepare_npy(make_folder(tmp_path / "raw", sides=("train", "train", "val")), tmp_path / "out", 32)
    assert list(done.labels["split"]) == ["train", "train", "val"] * 2 + ["train", "train"]
    assert done.stats["split"].startswith("given")


def test_folders_say_the_split_one_deeper_too(tmp_path):
    raw = make_folder(tmp_path / "raw", sides=("train/images", "train/images", "val/images"))
    change(raw, name="train/film0.npy")  # a name with its folder means that file
    done = prepare_npy(raw, tmp_path / "out", 32)
    assert len(done.skipped) == 0
    assert list(done.labels["split"]) == ["train", "train", "val"] * 2 + ["train", "train"]


def test_one_side_alone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="only one of train/ and val/"):
        prepare_npy(make_folder(tmp_path / "raw", sides=("train",)), tmp_path / "out", 32)


def test_a_patient_on_both_sides_leaves_training(tmp_path):
    raw = make_folder(tmp_path / "raw", sides=("train", "train", "val"))
    table = pd.read_csv(raw / "boxes.csv").assign(patient=list("abacdefg"))  # films 0 (train) and 2 (val) are of a
    table.to_csv(raw / "boxes.csv", index=False)
    done = prepare_npy(raw, tmp_path / "out", 32)
    assert list(done.labels["split"]) == ["unused", "train", "val", "train", "train", "val", "train", "train"]


def test_films_of_a_patient_share_a_side(tmp_path):
    raw = make_folder(tmp_path / "raw")
    pd.read_csv(raw / "boxes.csv").assign(patient=list("aabbccdd")).to_csv(raw / "boxes.csv", index=False)
    split = prepare_npy(raw, tmp_path / "out", 32).labels["split"].to_numpy().reshape(4, 2)
    assert (split[:, 0] == split[:, 1]).all()


def test_the_frame_of_the_boxes_counts(tmp_path):
    """Boxes drawn at 96 x 80 over images of 48 x 40, as the exercise's csv says it with two columns."""
    raw = make_folder(tmp_path / "raw")
    pd.read_csv(raw / "boxes.csv").assign(img_shape_x=96, img_shape_y=80).to_csv(raw / "boxes.csv", index=False)
    first = prepare_npy(raw, tmp_path / "out", 48).labels.filter(like="heart_").iloc[0].to_numpy()
    assert first == pytest.approx([2, 8 * 0.6, 12, 32 * 0.6])


def test_the_same_input_gives_the_same_bytes(tmp_path):
    raw = make_folder(tmp_path / "raw")
    for out in ("a", "b"):
        prepare_npy(raw, tmp_path / out, 32)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_processed_folder_goes_out_and_comes_back(processed, tmp_path):
    export_npy(processed_with_patients(processed, tmp_path / "from"), tmp_path / "npy")
    assert is_npy_folder(tmp_path / "npy")
    done = prepare_npy(tmp_path / "npy", tmp_path / "back", 64)
    assert np.array_equal(np.load(tmp_path / "back" / "images.npy"), np.load(processed / "images.npy"))
    before = pd.read_csv(processed / "labels.csv")
    assert np.allclose(done.labels.filter(like="heart_"), before.filter(like="heart_"), atol=1e-4)
    assert list(done.labels["split"]) == list(before["split"])


def processed_with_patients(processed, out):
    shutil.copytree(processed, out)
    names = pd.read_csv(out / "labels.csv")["name"]
    pd.DataFrame({"name": names, "patient": range(len(names))}).to_csv(out / "patients.csv", index=False)
    return out


def test_the_sample(tmp_path):
    write_sample(tmp_path, 6, 64)
    before = (tmp_path / "labels.csv").read_bytes()
    done = prepare_npy(tmp_path, tmp_path / "out", 64)
    assert len(done.labels) == 6
    assert len(done.skipped) == 0
    assert 0 <= done.labels["heart_x_min"].min() < done.labels["heart_x_max"].max() <= 64
    write_sample(tmp_path, 4, 64)  # another sample takes its place, without leftovers
    assert len(list((tmp_path / "images").iterdir())) == 4
    write_sample(tmp_path, 6, 64)
    assert (tmp_path / "labels.csv").read_bytes() == before


# ---------------------------------------------------------------- what cannot be used


class Trap:
    """Leaves a trace if anybody unpickles it."""

    trace = "unpickled"

    def __reduce__(self):
        return (os.mkdir, (self.trace,))


def pickled_array(path):
    np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)


def plain_pickle(path):
    import pickle

    path.write_bytes(pickle.dumps(Trap()))


def archive(path):
    with path.open("wb") as stream:
        np.savez(stream, image=np.zeros((40, 48)))


def cut_off(path):
    np.save(path, np.zeros((40, 48)))
    path.write_bytes(path.read_bytes()[:500])


def claims_too_much(path):
    with path.open("wb") as stream:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
        np.lib.format.write_array_header_1_0(stream, header)


def with_nan(path):
    image = np.zeros((40, 48), dtype=np.float32)
    image[3, 3] = np.nan
    np.save(path, image)


BAD_IMAGES = {
    "pickled array": (pickled_array, "^pickled: "),
    "plain pickle": (plain_pickle, "^pickled: "),
    "archive": (archive, "^broken: .*npz"),
    "cut off": (cut_off, "^broken: "),
    "claims too much": (claims_too_much, "^broken: "),
    "empty file": (lambda path: path.write_bytes(b""), "^broken: "),
    "text": (lambda path: path.write_text("no image"), "^broken: "),
    "colour": (lambda path: np.save(path, np.zeros((40, 48, 3))), r"^shape: \(40, 48, 3\)"),
    "a vector": (lambda path: np.save(path, np.zeros(40)), r"^shape: \(40,\)"),
    "tiny": (lambda path: np.save(path, np.zeros((4, 4))), r"^shape: \(4, 4\)"),
    "not finite": (with_nan, "^pixels: .*NaN"),
    "normalised already": (lambda path: np.save(path, np.full((40, 48), -1.5)), r"^pixels: .*\[0, 1\]"),
    "complex": (lambda path: np.save(path, np.zeros((40, 48), dtype=complex)), "^pixels: .*complex"),
}


@pytest.mark.parametrize("kind", list(BAD_IMAGES))
def test_a_bad_image_is_named_and_left_out(tmp_path, monkeypatch, kind):
    make, reason = BAD_IMAGES[kind]
    monkeypatch.chdir(tmp_path)
    raw = make_folder(tmp_path / "raw")
    make(raw / "images" / "film0.npy")
    done = prepare_npy(raw, tmp_path / "out", 32)
    assert len(done.labels) == 7
    assert list(done.skipped["name"]) == ["film0"]
    assert pd.Series(done.skipped["reason"]).str.contains(reason).all(), done.skipped["reason"][0]
    assert "1 skipped" in done.summary()
    assert "film0" in done.summary()
    assert not (tmp_path / Trap.trace).exists()


BAD_LABELS = {
    "no image": ({"name": "film99"}, ["film99", "film0"], ["^no image: row 2 of boxes.csv", "^no label: boxes.csv"]),
    "outside": ({"x_max": 60}, ["film0"], ["^box: it reaches 12 px over the border of 48 x 40"]),
    "inside out": ({"x_min": 30}, ["film0"], ["^box: row 2 .* turned inside out: x_min 30"]),
    "flat": ({"y_min": 32}, ["film0"], ["^box: row 2 .* empty"]),
    "empty": ({"x_min": ""}, ["film0"], ["^box: row 2 .*not finite"]),
    "words": ({"x_min": "left"}, ["film0"], ["^box: row 2 .*not all of it are numbers"]),
    "infinite": ({"x_max": "inf"}, ["film0"], ["^box: row 2 .*not finite"]),
    "beyond every image": ({"x_max": "1e308"}, ["film0"], ["^box: row 2 .*beyond every image"]),
    "shares for pixels": (
        {"x_min": 0.1, "y_min": 0.1, "x_max": 0.4, "y_max": 0.5},
        ["film0"],
        ["^box: row 2 .*less than a pixel"],
    ),
    "corner and size": ({"x0": 1, "y0": 2, "w": 9, "h": 9}, ["film0"], ["^box: row 2 .*its size say different things"]),
    "without a name": ({"name": ""}, ["row 2 of boxes.csv", "film0"], ["^label: it names no image", "^no label"]),
    "of another organ": ({"label": "lung"}, ["film0"], ["^box: row 2 .*labelled 'lung', not 'heart'"]),
}


@pytest.mark.parametrize("kind", list(BAD_LABELS))
def test_a_bad_label_is_named_and_left_out(tmp_path, kind):
    columns, names, reasons = BAD_LABELS[kind]
    raw = make_folder(tmp_path / "raw")
    change(raw, **columns)
    done = prepare_npy(raw, tmp_path / "out", 32)
    assert len(done.labels) == 7
    assert list(done.skipped["name"]) == names
    for reason, expected in zip(done.skipped["reason"], reasons, strict=True):
        assert pd.Series([reason]).str.contains(expected).all(), reason


def test_a_hair_over_the_border_is_rounding(tmp_path):
    raw = make_folder(tmp_path / "raw")
    change(raw, x_max=48.3)
    done = prepare_npy(raw, tmp_path / "out", 48)
    assert len(done.skipped) == 0
    assert done.labels["heart_x_max"][0] == 48


@pytest.mark.parametrize("same", [True, False])
def test_two_rows_for_one_image(tmp_path, same):
    raw = make_folder(tmp_path / "raw")
    table = pd.read_csv(raw / "boxes.csv")
    second = table.iloc[[1]].assign(x_max=table["x_max"][1] + (0 if same else 2))
    pd.concat([table, second]).to_csv(raw / "boxes.csv", index=False)
    done = prepare_npy(raw, tmp_path / "out", 32)
    assert len(done.labels) == 7 + same  # which of two boxes is right, nobody can tell
    expected = "second one for the same image; the first is used" if same else "one of several .* their boxes differ"
    assert done.skipped["reason"].str.contains(expected).tolist() == [True]


def test_the_raw_folder_is_not_written_to(tmp_path):
    raw = make_folder(tmp_path / "raw")
    with pytest.raises(ValueError, match="where the raw files lie"):
        prepare_npy(raw, raw, 32)


def test_what_is_no_image_among_images(tmp_path):
    raw = make_folder(tmp_path / "raw")
    (raw / "images" / "folder.npy").mkdir()
    (raw / "images" / "._film1.npy").write_bytes(b"shadow")
    (raw / "images" / "film0.npy").unlink()
    (raw / "images" / "film0.npy").symlink_to(tmp_path / "nowhere.npy")
    np.save(raw / "images" / "film1.npy", np.zeros((40, 48)))
    done = prepare_npy(raw, tmp_path / "out", 32)
    assert done.skipped["name"].tolist() == ["film0", "film1"]
    assert done.skipped["reason"].str.contains("^no image|one even grey").all()


def test_two_images_of_one_name(tmp_path):
    raw = make_folder(tmp_path / "raw")
    (raw / "more").mkdir()
    shutil.copy(raw / "images" / "film1.npy", raw / "more" / "film0.npy")
    done = prepare_npy(raw, tmp_path / "out", 32)
    assert done.skipped["reason"].str.contains("^several images: images/film0.npy, more/film0.npy").tolist() == [True]


def test_folders_that_hold_nothing_usable(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no csv of boxes.*x_min"):
        prepare_npy(tmp_path, tmp_path / "out", 32)
    raw = make_folder(tmp_path / "raw")
    text = (raw / "boxes.csv").read_text()
    (raw / "boxes.csv").write_text(text.replace(",", ";"))
    with pytest.raises(FileNotFoundError, match="no csv of boxes lies here .boxes.csv begins with 'name;x_min.*commas"):
        prepare_npy(raw, tmp_path / "out", 32)
    monkeypatch.setenv("CARDIAC_DATA", str(raw))
    folder, _ = find_npy_folder(tmp_path / "data", tmp_path / "artifacts")  # what is wrong, the reader tells
    assert folder == raw
    monkeypatch.delenv("CARDIAC_DATA")
    (raw / "boxes.csv").write_text(text + "film9,1,2,3,4,5,6,7,8,9\n")
    with pytest.raises(ValueError, match=r"boxes\.csv: cannot be read as a csv .*line \d+.*; mend that line"):
        prepare_npy(raw, tmp_path / "out", 32)
    (raw / "boxes.csv").write_text(text.upper().replace("FILM", "film"))
    assert len(prepare_npy(raw, tmp_path / "out", 32).labels) == 8
    (raw / "boxes.csv").write_text(text)
    shutil.copy(raw / "boxes.csv", raw / "old.csv")
    with pytest.raises(ValueError, match=r"boxes.csv, old.csv all hold boxes"):
        prepare_npy(raw, tmp_path / "out", 32)
    (raw / "old.csv").unlink()
    shutil.rmtree(raw / "images")
    with pytest.raises(FileNotFoundError, match="no .npy image"):
        prepare_npy(raw, tmp_path / "out", 32)
    (raw / "film0.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="not one X-ray could be read; the first reason: no image|broken"):
        prepare_npy(raw, tmp_path / "out", 32)
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere does not exist. Expected there: images as .npy"):
        find_npy_folder(tmp_path / "data", tmp_path / "artifacts")
    monkeypatch.setenv("CARDIAC_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"holds none of the layouts .*columns.*stage_2_train_images"):
        find_npy_folder(tmp_path / "data", tmp_path / "artifacts")


def test_where_the_data_is(tmp_path, monkeypatch):
    monkeypatch.delenv("CARDIAC_DATA", raising=False)
    folder, said = find_npy_folder(tmp_path / "vgg16", tmp_path / "artifacts", count=3, size=64)
    assert folder == tmp_path / "vgg16-sample"
    assert "3 synthetic films" in said
    make_folder(tmp_path / "vgg16")
    assert find_npy_folder(tmp_path / "vgg16", tmp_path / "artifacts")[0] == tmp_path / "vgg16"
    monkeypatch.setenv("CARDIAC_DATA", str(folder))
    assert find_npy_folder(tmp_path / "vgg16", tmp_path / "artifacts")[0] == folder


def test_dtypes_and_axes(tmp_path):
    path = tmp_path / "image.npy"
    for stored in (np.full((1, 40, 48), 51, np.uint8), np.full((40, 48, 1), 0.2), np.full((40, 48), 0.2, np.float16)):
        np.save(path, stored)
        image = read_npy(path)
        assert image.shape == (40, 48)
        assert image.dtype == np.float32
        assert np.allclose(image, 0.2, atol=1e-4)


def test_real_x_rays_become_npy(tmp_path, real_data):
    prepare(real_data / "ctr", tmp_path / "prepared", limit=12, progress=False)
    labels = pd.read_csv(tmp_path / "prepared" / "labels.csv")
    done = prepare_npy(export_npy(tmp_path / "prepared", tmp_path / "npy"), tmp_path / "out", 112)
    used = labels[labels["split"] != "unused"].sort_values("name")
    assert len(done.skipped) == 0
    assert len(done.labels) == len(used)
    mine = done.labels.assign(name=done.labels["name"].str.split("-", n=1).str[1]).sort_values("name")
    assert np.allclose(mine.filter(like="heart_"), used.filter(like="heart_") / 2, atol=1e-3)
    assert list(mine["split"]) == list(used["split"])


# ---------------------------------------------------------------- networks and measures


def test_the_published_network():
    model = build_model("vgg16", "regression", size=64, hidden=(128, 64, 32))
    widths = [(m.in_features, m.out_features) for m in model.regress if isinstance(m, torch.nn.Linear)]
    assert widths == [(25088, 4096), (4096, 4096), (4096, 1000), (1000, 128), (128, 64), (64, 32), (32, 4)]
    assert model.features[0].in_channels == 1
    assert isinstance(model.regress[-2], torch.nn.ReLU)
    recipe = RECIPES["published"]
    assert (recipe.loss, recipe.learning_rate, recipe.weight_decay, recipe.one_cycle) == ("mse", 1e-4, 0, False)
    assert (recipe.batch_size, recipe.epochs, recipe.hidden, recipe.augment) == (32, 25, (128, 64, 32), "")


def test_hidden_layers_are_for_the_regression_head_and_are_saved(tmp_path):
    with pytest.raises(ValueError, match="no fully connected layers"):
        build_model("resnet18", "edges", size=64, hidden=(8,))
    model = build_model("resnet18", "regression", size=64, hidden=(8,)).eval()
    model.start_at(torch.tensor([1.0, 2, 3, 4]))
    save_weights(tmp_path / "w.pt", model, {"mean": 0.5, "std": 0.25, "layout": "made"}, targets=["heart"])
    loaded, _ = load_weights(tmp_path / "w.pt")
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_measures_by_hand(processed):
    """Each answer 1 px of 64 too far to the right: 3.5 px at 224 on two of the four edges."""
    train, val = CardiacDataset(processed, "train"), CardiacDataset(processed, "val")
    truth = val.boxes.reshape(-1, 4).astype(float)
    table = compare({"shifted": truth + [1, 0, 1, 0], "labels": truth}, train, val)
    assert table.loc["shifted", "mae"] == pytest.approx(1.75)
    assert table.loc["shifted", "mse"] == pytest.approx(3.5**2 / 2)
    always = train.boxes.reshape(-1, 4).mean(axis=0)
    baseline = np.abs(truth - always).mean() * 3.5
    assert table.loc["mean box", "mae"] == pytest.approx(baseline)
    assert table.loc["shifted", "skill"] == pytest.approx(1 - 1.75 / baseline)
    assert table.loc["mean box", ["skill", "varies"]].tolist() == pytest.approx([0, 0])
    assert table.loc["labels", ["skill", "varies", "iou_mean", "mae"]].tolist() == pytest.approx([1, 1, 1, 0])


def test_variation_by_hand():
    truth = np.array([[0.0, 0, 0, 0], [2, 4, 6, 8]])  # standard deviations 1, 2, 3, 4
    answers = np.array([[5.0, 5, 5, 5], [5, 6, 5, 7]])  # 0, 0.5, 0, 1
    assert variation(answers, truth) == pytest.approx((0 + 0.25 + 0 + 0.25) / 4)


def test_directions_by_hand():
    """Four films at the corners of a rectangle of 2 by 4: eigenvalues 4 and 16, (4 + 16)^2 / (16 + 256)."""
    corners = np.array([[0.0, 0], [2, 0], [0, 4], [2, 4]])
    share, directions = differ(corners)
    assert directions == pytest.approx(400 / 272)
    assert share == pytest.approx(np.sqrt((1 + 4) / 2) / np.sqrt((0 + 4 + 16 + 20) / 8))
    assert differ(np.ones((3, 5))) == (0, 0)


class Tiny(torch.nn.Module):
    """One pooling layer and two linear ones, small enough to be followed by hand."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.MaxPool2d(2)
        first, last = torch.nn.Linear(1, 2), torch.nn.Linear(2, 1)
        self.regress = torch.nn.Sequential(first, torch.nn.ReLU(inplace=True), last)
        with torch.no_grad():
            first.weight[:, 0], first.bias[:] = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 0.0])
            last.weight[:], last.bias[:] = 1.0, 10.0

    def forward(self, x):
        return self.regress(self.features(x).flatten(1))


def test_difference_by_layer_by_hand():
    """Two films, all 1 and all 3: standard deviation 1 and root mean square sqrt(5) until the bias of 10 drowns it."""
    x = torch.ones(2, 1, 2, 2)
    x[1] = 3
    layers = difference_by_layer(Tiny(), x)
    assert layers["directions"].tolist() == pytest.approx([1, 1, 1, 1])  # two films always lie on one line
    shares = layers["difference"]
    assert list(shares.index) == ["image", "block 1", "fc 1: 2", "coordinates"]
    assert shares["image"] == pytest.approx(1 / np.sqrt(5))
    assert shares["block 1"] == pytest.approx(1 / np.sqrt(5))
    # The second unit is dead (-1 and -3), so root mean squares are over (1, 0) and (3, 0).
    assert shares["fc 1: 2"] == pytest.approx(np.sqrt(0.5) / np.sqrt(2.5))
    assert shares["coordinates"] == pytest.approx(1 / np.sqrt((11**2 + 13**2) / 2))


def test_the_extra_layers_squeeze_the_films_out(processed):
    """What the notebook shows: untrained already, hardly anything of the films comes out of the last of them."""
    train, val = load_sides(processed, RECIPES["published"])
    shares = difference_by_layer(build(RECIPES["published"], train), torch.stack([val[i][0] for i in range(6)]))[
        "difference"
    ]
    assert shares["fc 6: 32"] < 0.2 * shares["fc 3: 1000"]
    assert shares["coordinates"] < 0.05 * shares["image"]


def test_the_mended_network_learns_to_look(processed, tmp_path):
    recipe = dataclasses.replace(RECIPES["mended"], epochs=4, batch_size=4)
    model, history = train_vgg(recipe, processed, tmp_path, progress=False, checkpoints=False, device="cpu")
    assert history["val_iou"].iloc[-1] > history["val_iou"].iloc[0]
    assert not (tmp_path / "checkpoints").exists()
    assert (tmp_path / "history.csv").is_file()
    train, val = load_sides(processed, recipe)
    with torch.no_grad():
        answers = torch.cat([model(val[i][0][None]) for i in range(len(val))]).numpy()
    assert compare({"mended": answers}, train, val).loc["mended", "varies"] > 0.2


def test_the_table_of_the_benchmark(processed, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import companion_vgg16 as benchmark

    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    _, val = load_sides(processed, RECIPES["mended"])
    found = {"predicted": val.boxes.reshape(-1, 4) + 1, "epochs": np.array(7), "seconds": np.array(61.2)}
    found |= {"layers": np.array(["image", "block 1"]), "differences": np.array([0.5, 0.125])}
    found["directions"] = np.array([3.25, 2.0])
    benchmark.write_results({"mended": found}, processed)
    text = (tmp_path / "companion_vgg16.md").read_text()
    assert "24 films to train on and 12 measured" in text
    assert "| mended | 7 of 24 | 3.50 |" in text  # one pixel of 64 on every edge
    assert "- mended: image 50.00% (3.2), block 1 12.50% (2.0)" in text
    assert "Not measured yet: published." in text


# ---------------------------------------------------------------- the notebook


def copy_companion(folder):
    """Copy the notebook and what belongs beside it."""
    (folder / "companions").mkdir(parents=True)
    shutil.copytree(ROOT / "heartbox", folder / "heartbox", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cardiac_dataset.py", *(f"companions/{one}" for one in (NOTEBOOK, "vgg16.py", "npy_folder.py"))):
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_notebook_on_the_sample(tmp_path):
    folder = copy_companion(tmp_path / "copy")
    run = execute(folder / "companions", [NOTEBOOK], CARDIAC_ARTIFACTS=str(tmp_path / "results"))
    assert run.returncode == 0, run.stderr[-3000:]
    output = output_of(folder / "companions" / NOTEBOOK)
    assert "synthetic" in output
    assert str(tmp_path) not in output
    cells = nbformat.read(folder / "companions" / NOTEBOOK, 4).cells
    assert [o["text"] for c in cells for o in c.get("outputs", []) if o.get("name") == "stderr"] == []
    metrics = pd.read_json(tmp_path / "results" / "vgg16" / "metrics.json", typ="series")
    assert {"mean box", "published", "mended"} <= set(metrics["answers"])
    assert (folder / "data" / "vgg16-sample" / "labels.csv").is_file()
