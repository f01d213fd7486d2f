"""The ChestX-Det benchmark's table, on made answers."""

import companion_chestxdet
from chestxdet_films import FAR, A, detections

from companions.chestxdet.model import DetectionRecipe


def test_benchmark_pools_its_folds():
    """Two folds of two films: three of the four right in stage 1, one of two boxes found first in stage 2."""

    def fold(called: list, given: dict, start: str) -> dict:
        stage2 = {
            "answers": [given, detections()],
            "mean_boxes": [detections()] * 2,
            "truth": [detections((A, 1)), detections()],
        }
        stage2 |= {"findings": ["Opacity"], "started_from": start, "trained_on": 7}
        stage1 = {"auc": 0.75, "called": called, "abnormal": [True, False]}
        return {"layout": "NIH", "problems": 0, "stage1": stage1, "stage2": stage2}

    folds = [
        fold([True, False], detections((A, 1, 0.9)), "heart"),
        fold([True, True], detections((FAR, 1, 0.8)), "heart"),
    ]
    text = companion_chestxdet.as_markdown(folds, 5, DetectionRecipe())
    assert "2 of 5 folds measured" in text
    assert "4 films, 2 abnormal" in text
    assert "| small CNN | 1.00 (0.34 to 1.00) | 0.50 (0.09 to 0.91) | 0.750 |" in text
    assert f"| Opacity | 2 | {51 / 101:.3f} | {51 / 101:.3f} | 0.000 | 0.000 |" in text
