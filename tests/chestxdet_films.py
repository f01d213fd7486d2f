"""Small made folders of annotated chest films, for the tests of the ChestX-Det companion."""

import functools
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from companions.chestxdet import data

NOTEBOOK = "companions/ChestX-Det10.ipynb"
# Starting another process takes longer than reading a handful of films.
prepare_quietly = functools.partial(data.prepare, processes=1, progress=False)


def entry(name: str, *found, **more) -> dict:
    """Return an entry of a JSON file; `found` are pairs of name and box."""
    return {"file_name": name, "syms": [sym for sym, _ in found], "boxes": [box for _, box in found], **more}


def many(start: int, count: int) -> list:
    """Return entries of which every other one is normal."""
    return [entry(f"{k}.png", *([("Nodule", [8, 8, 24, 24])] if k % 2 else [])) for k in range(start, start + count)]


def write_image(path: Path, size=(64, 64), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8))


def write_folder(folder: Path, train: list, test: list, form: str = "ChestX-Det10", images=True) -> Path:
    """Write a folder in one of the two JSON forms; every named entry gets an image of 64 px."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "ChestX_Det_" if form == "ChestX-Det" else ""
    for split, entries in (("train", train), ("test", test)):
        (folder / f"{stem}{split}.json").write_text(json.dumps(entries))
        for k, one in enumerate(entries if images else []):
            if isinstance(one, dict) and re.fullmatch(r"[\w.]+", str(one.get("file_name"))):
                write_image(folder / f"{split}_data" / one["file_name"], seed=k)
    return folder


def write_bright_squares(folder: Path) -> Path:
    """Write 40 films of 64 px, 10 of them in the test split; abnormal ones have a bright square, a 'Mass'."""
    rng = np.random.default_rng(0)
    entries = {"train": [], "test": []}
    for k in range(40):
        image = rng.integers(0, 60, (64, 64), dtype=np.uint8)
        found = []
        if k % 2:
            x, y = rng.integers(4, 36, 2).tolist()
            image[y : y + 24, x : x + 24] = 230
            found = [("Mass", [x, y, x + 24, y + 24])]
        split = "test" if k >= 30 else "train"
        entries[split].append(entry(f"{k}.png", *found))
        (folder / f"{split}_data").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{split}_data" / f"{k}.png"), image)
    return write_folder(folder, **entries, images=False)


def write_nih(folder: Path, rows: list, boxes: list) -> pd.DataFrame:
    """Write the two tables of NIH films without images; return that of the labels."""
    table = pd.DataFrame(rows, columns=["file", "nih_label", "rsna_class"])
    table.to_csv(folder / "labels.csv", index=False)
    boxes = pd.DataFrame(boxes, columns=["file", "x", "y", "width", "height"])
    boxes.to_csv(folder / "opacity_boxes_512.csv", index=False)
    return table


# Entries that cannot be used: what stands in the JSON file, the kind of the problem, and words of its reason.
BAD = {
    "a box outside": (entry("bad.png", ("Mass", [10, 10, 90, 30])), "box", "outside the image of 64 x 64"),
    "an empty box": (entry("bad.png", ("Mass", [10, 10, 10, 30])), "box", "is empty"),
    "fractions for pixels": (entry("bad.png", ("Mass", [0.1, 0.1, 0.5, 0.5])), "box", "less than a pixel"),
    "an inside-out box": (entry("bad.png", ("Mass", [30, 30, 10, 10])), "box", "is empty"),
    "three numbers": (entry("bad.png", ("Mass", [10, 10, 30])), "box", "four numbers"),
    "words in a box": (entry("bad.png", ("Mass", [1, 2, "x", 4])), "box", "four numbers"),
    "not a number": (entry("bad.png", ("Mass", [1, 2, float("nan"), 4])), "box", "four numbers"),
    "unknown finding": (entry("bad.png", ("Nodul", [1, 2, 30, 40])), "label", "unknown finding 'Nodul'"),
    "different lengths": ({"file_name": "bad.png", "syms": ["Mass"], "boxes": []}, "label", "1 syms, 0 boxes"),
    "polygons too few": (entry("bad.png", ("Mass", [1, 2, 30, 40]), polygons=[]), "label", "1 boxes, 0 polygons"),
    "no list of findings": ({"file_name": "bad.png", "boxes": []}, "label", "no list of syms"),
    "null for a list": ({"file_name": "bad.png", "syms": None, "boxes": []}, "label", "no list of syms"),
    "no such image": (entry("else where.png"), "no image", "no such image"),
    "a path for a name": (entry("../bad.png"), "label", "not a plain name"),
}

# ---------------------------------------------------------------- made answers of a detector

A, B, FAR = [0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]
HALF = [0, 0, 10, 4]  # overlaps A by 0.4


def detections(*found) -> dict:
    """Return an answer from (box, label, score), or a truth from (box, label)."""
    made = {
        "boxes": torch.tensor([box for box, *_ in found], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([one[1] for one in found], dtype=torch.int64),
    }
    if not found or len(found[0]) == 3:
        made["scores"] = torch.tensor([one[2] for one in found], dtype=torch.float32)
    return made
