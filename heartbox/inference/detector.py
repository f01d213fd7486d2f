"""HeartDetector: weights and an X-ray -> the heart's box, its ratio to the chest, margins and check_quality.

Uses xray, boxes, networks and evidence; knows nothing of training, of folders of data or of drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from heartbox.boxes import box_areas, cardiothoracic_ratio, clip_boxes, scale_boxes
from heartbox.evaluation.conformal import margins
from heartbox.explain.attribution import EXPLANATIONS
from heartbox.inference.quality_checks import (
    check_certainty,
    check_quality,
    check_training,
    collect_notes,
    is_surer,
)
from heartbox.inference.result import HeartDetection
from heartbox.models.config import WeightsConfig
from heartbox.models.heads import BoxNet
from heartbox.models.weights import load_weights
from heartbox.xray.contrast import normalize_contrast
from heartbox.xray.errors import XRayError
from heartbox.xray.image import XRay, resize_xray
from heartbox.xray.reader import as_xray


class HeartDetector:
    """Finds the heart in chest X-rays with trained weights.

    Parameters
    ----------
    model : BoxNet
        From :func:`heartbox.models.build.build_model`.
    config : WeightsConfig
        As stored beside the weights: ``mean``, ``std``, ``size``, ``targets`` and, where there is one,
        ``calibration``.
    """

    def __init__(self, model: BoxNet, config: WeightsConfig):
        self.model = model.eval()
        self.config = config

    @classmethod
    def from_weights(cls, source: str | Path, sha256: str | None = None) -> HeartDetector:
        """Load weights written by notebook 03 or released with the project.

        Parameters
        ----------
        source : path or str
            A file, or an https address; what an address gives is kept, so that the next time needs no network.
        sha256 : str, optional
            What the file's SHA-256 must be. An address needs one; the model card gives it.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file has another SHA-256, is not one of ours or does not fit the network it names.
        OSError
            If it cannot be fetched.
        """
        return cls(*load_weights(source, sha256))

    def detect(self, source: str | Path | XRay | NDArray) -> HeartDetection:
        """Find the heart in one X-ray.

        Parameters
        ----------
        source : path, XRay or ndarray
            A file that :func:`heartbox.xray.reader.load_xray` reads; what it returned; or a 2-D array with bone bright,
            either float in [0, 1] or unsigned integers over their full range.

        Returns
        -------
        HeartDetection
            Boxes, ratio, margins, check_quality and collect_notes.

        Raises
        ------
        XRayError
            If the file cannot be read as an X-ray, or the array is not an image.
        """
        return self.detect_each([source])[0]

    def detect_each(self, sources: Sequence[str | Path | XRay | NDArray], batch_size: int = 16) -> list[HeartDetection]:
        """Find the heart in several X-rays, several at a time; the answers are those of :meth:`detect`.

        Parameters
        ----------
        sources : sequence
            Each as for :meth:`detect`; of any size, each of its own.
        batch_size : int
            How many go through the network together: a matter of speed and memory.

        Returns
        -------
        list of HeartDetection
            In the order of `sources`.

        Raises
        ------
        XRayError
            If one of them cannot be read, or it is no list. To go on after a bad file, ask :meth:`detect` for each.
        """
        if isinstance(sources, str | Path | XRay | np.ndarray):
            raise XRayError("detect_each takes a list of X-rays; for a single one use detect")
        answers = []
        sources = list(sources)
        for start in range(0, len(sources), batch_size):
            xrays = [as_xray(source) for source in sources[start : start + batch_size]]
            x = torch.cat([self.to_tensor(xray) for xray in xrays])
            coordinates, spread = self._run(x)
            looks = self._orientations(x, spread)
            answers += [self._answer(*one) for one in zip(xrays, coordinates, spread, looks, strict=True)]
        return answers

    def _answer(self, xray: XRay, coordinates: NDArray, spread: NDArray, looks: str) -> HeartDetection:
        """Turn what the network says, in pixels of its input, into an answer in pixels of the film."""
        shape, size = xray.image.shape, self.config.size
        boxes = scale_boxes(coordinates.reshape(-1, 4), (size, size), shape)
        heart = clip_boxes(boxes[0], shape)
        thorax = clip_boxes(boxes[1], shape) if "thorax" in self.config.targets else None
        ctr = None if thorax is None else float(cardiothoracic_ratio(heart, thorax))
        # Edges in the wrong order enclose nothing: there is no heart, and no ratio and no margin of it either.
        lost = not box_areas(heart) > 0
        ctr = None if ctr is None or math.isnan(ctr) or lost else ctr
        interval, ctr_interval, level = None, None, None
        calibration = self.config.calibration
        # Margins measured on synthetic films say nothing about a real one.
        untrained = check_training(xray, self.config.layout)
        if calibration and not untrained and not lost:
            level = calibration.level
            margin, reach = margins(calibration, coordinates, spread)
            around = np.stack([coordinates[:4] - margin[:4], coordinates[:4] + margin[:4]])
            interval = clip_boxes(scale_boxes(around, (size, size), shape), shape).T
            if ctr is not None and reach is not None:
                ctr_interval = (max(ctr - float(reach), 0.0), ctr + float(reach))
        certainty = () if untrained else check_certainty(float(spread[:4].mean()), self._usual_spread, looks, size)
        warnings = (*untrained, *certainty, *check_quality(xray, heart, thorax, interval, ctr_interval))
        return HeartDetection(
            xray, heart, interval, thorax, ctr, ctr_interval, level, warnings, collect_notes(xray, thorax)
        )

    def explain(self, source: str | Path | XRay | NDArray, method: str = "integrated gradients") -> NDArray[np.float32]:
        """Return one signed evidence map for each heart edge.

        Parameters
        ----------
        source
            As for :meth:`detect`.
        method : {"integrated gradients", "occlusion", "gradients"}
            ``"integrated gradients"``: fine, and their sum is how far the edge moves from a blurred film to this one;
            some seconds. ``"occlusion"``: patch by patch blurred away; some seconds more. ``"gradients"``: in no time,
            at the network's own grid: the exact class-activation map for the classic head; for others HiResCAM, of
            whose maps only the places can be relied on, not the sign. See :mod:`heartbox.explain.attribution` for
            the methods, :mod:`heartbox.explain.faithfulness` for their checks and
            ``benchmarks/results/explanation_faithfulness.md`` for how each method scores.

        Returns
        -------
        ndarray of float32, shape (4, rows, columns)
            For ``x_min, y_min, x_max, y_max``: positive where the image pushes the edge right or down, negative
            where it pushes it left or up. Enlarged to the original image.

        Raises
        ------
        XRayError
            As :meth:`detect`.
        ValueError
            If there is no such method.
        """
        if method not in EXPLANATIONS:
            raise ValueError(f"unknown method {method!r}: choose one of {', '.join(EXPLANATIONS)}")
        xray = as_xray(source)
        maps = EXPLANATIONS[method](self.model, self.to_tensor(xray))[0, :4].numpy()
        rows, columns = xray.image.shape
        return np.stack([cv2.resize(one, (columns, rows), interpolation=cv2.INTER_LINEAR) for one in maps])

    @property
    def _usual_spread(self) -> float | None:
        """Mean standard deviation, in pixels, that ordinary films stay below; None where the weights do not say."""
        return self.config.calibration and self.config.calibration.usual_std

    def _orientations(self, x: torch.Tensor, spread: NDArray) -> list[str]:
        """Tell for each film which way it may lie wrong, by trying on which variant the network is surer.

        All films are tried mirrored, because some mirrored ones look possible to the network: a few people have
        their heart on the right. The other variants leave it undecided, so only undecided films are tried.

        Returns
        -------
        list of str
            One of :data:`heartbox.inference.quality_checks.LOOKS` for each film, or "".
        """
        if self._usual_spread is None:
            return [""] * len(x)
        asis = spread[:, :4].mean(axis=1)
        # 1 - image, for images that are normalised.
        inverted = (1 - 2 * self.config.mean) / self.config.std - x
        variants = {
            "looks-mirrored": x.flip(3),
            "looks-turned-right": x.rot90(1, (2, 3)),
            "looks-turned-left": x.rot90(-1, (2, 3)),
            "looks-turned-180": x.flip(2, 3),
            "looks-upside-down": x.flip(2),
            "looks-inverted": inverted,
        }
        codes, sure = list(variants), np.full((len(variants), len(x)), np.inf)
        for k, variant in enumerate(variants.values()):
            tried = np.ones(len(x), bool) if k == 0 else asis > self._usual_spread
            if tried.any():
                sure[k, tried] = self._run(variant[torch.from_numpy(tried)])[1][:, :4].mean(axis=1)
        best = sure.argmin(axis=0)
        return [codes[k] if is_surer(sure[k, i], asis[i]) else "" for i, k in enumerate(best)]

    def shown(self, xray: XRay) -> NDArray[np.float32]:
        """Return the film as the network is shown it, as in training: (size, size) in [0, 1], its contrast evened."""
        image = resize_xray(xray.image, self.config.size)
        if self.config.normalizes_contrast:  # weights of an earlier version saw films as they are
            image = normalize_contrast(image)
        # Training images were stored as float16: the same rounding here makes the same film the same input.
        return image.astype(np.float16).astype(np.float32)

    def to_tensor(self, xray: XRay) -> torch.Tensor:
        """Turn an X-ray into what the network takes: (1, 1, size, size), z-normalised as in training."""
        image = self.shown(xray)
        return torch.from_numpy((image - self.config.mean) / self.config.std).float()[None, None]

    @torch.no_grad()
    def _run(self, x: torch.Tensor) -> tuple[NDArray, NDArray]:
        """Return coordinates and spreads, (N, 4 * targets) each, in pixels of the network's input."""
        features = self.model.features(x)
        coordinates, std = self.model.coordinates_and_std(features)
        coordinates = coordinates.double().numpy()
        return coordinates, np.ones_like(coordinates) if std is None else std.double().numpy()
