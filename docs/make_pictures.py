"""Extract the pictures of README.md and docs/ from the committed notebooks: python docs/make_pictures.py."""

import base64
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
# Notebook, a phrase that only this cell contains, and the file name of the picture.
PICTURES = [
    ("01-Preprocessing.ipynb", "page_of_xrays(images[shown]", "phantoms.png"),
    ("04-Interpretability.ipynb", "draw_detection(found);", "answer.png"),
    ("04-Interpretability.ipynb", "maps = at_film_size(contributions)", "evidence.png"),
]


def main() -> None:
    """Write each picture to docs/images/."""
    for notebook, word, name in PICTURES:
        cells = nbformat.read(ROOT / notebook, 4).cells
        (cell,) = [cell for cell in cells if cell.cell_type == "code" and word in cell.source]
        (picture,) = [out.data["image/png"] for out in cell.outputs if "image/png" in out.get("data", {})]
        (ROOT / "docs" / "images" / name).write_bytes(base64.b64decode(picture))


if __name__ == "__main__":
    main()
