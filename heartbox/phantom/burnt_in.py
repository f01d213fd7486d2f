"""What is burnt into the pictures of the ward: words, letters on a black disc, an arrow for upright.

Knows images; it does not know anatomy or DICOM.
"""

from __future__ import annotations

import cv2
import numpy as np

from .subject import ILLNESS, Subject, keyed_generator


def burn_in(image: np.ndarray, subject: Subject) -> np.ndarray:
    """Write the words of `subject.illness.text` near the image's sides; the image is changed in place."""
    rng = keyed_generator(subject.seed, ILLNESS, subject.index, 3)
    size = len(image)
    ink, paper = np.zeros((2, size, size), np.uint8)  # OpenCV writes on 8-bit images only
    for word in subject.illness.text:
        scale = rng.uniform(0.2, 0.36) * size / 224
        thick = max(1, round(scale * rng.uniform(1.5, 3.2)))
        (wide, high), _ = cv2.getTextSize(word, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
        x = rng.uniform(0.01, 0.12) * size if rng.random() < 0.5 else size * rng.uniform(0.88, 0.99) - wide
        y = rng.uniform(0.04, 0.6) * size if rng.random() < 0.8 else size * rng.uniform(0.93, 0.99)
        at = (int(max(x, high)), int(max(y, high + 2)))
        edge = int(0.4 * high) + 1
        if len(word) == 1:
            cv2.circle(paper, (at[0] + wide // 2, at[1] - high // 2), high, 255, -1, cv2.LINE_AA)
        elif rng.random() < 0.25:
            corner = (at[0] + wide + edge, at[1] + edge)
            cv2.rectangle(paper, (at[0] - edge, at[1] - high - edge), corner, 255, -1)
        grey = int(rng.uniform(200, 255))
        cv2.putText(ink, word, at, cv2.FONT_HERSHEY_SIMPLEX, scale, grey, thick, cv2.LINE_AA)
    if subject.illness.text and rng.random() < 0.3:
        x, y, long = (int(rng.uniform(a, b) * size) for a, b in ((0.86, 0.95), (0.2, 0.5), (0.05, 0.09)))
        cv2.arrowedLine(ink, (x, y + long), (x, y), 255, max(1, size // 120), cv2.LINE_AA, tipLength=0.4)
    image *= 1 - paper * np.float32(1 / 255)
    return np.maximum(image, ink * np.float32(1 / 255), out=image)
