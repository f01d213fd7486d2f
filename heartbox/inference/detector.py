"""HeartDetector: weights and an X-ray -> the heart's box, its ratio to the chest, margins and quality flags.

Knows networks and X-rays; it does not know training, folders of data or drawing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from heartbox.boxes import EDGES_PER_BOX, HEART, box_areas, cardiothoracic_ratio, clip_boxes, scale_boxes
from heartbox.evaluation.conformal import margins
from heartbox.explain.attribution import EXPLANATIONS
from heartbox.inference.quality_checks import (
    UPRIGHT_ABOVE,
    check_certainty,
    check_quality,
    check_training,
    collect_notes,
    is_surer,
)
from heartbox.inference.result import HeartDetection
from heartbox.models.config import WeightsConfig
from heartbox.models.folding import fold_batch_norm
from heartbox.models.heads import BoxNet
from heartbox.models.onnx_files import OnnxNet, load_onnx
from heartbox.models.orientation import ORIENTATIONS, UNDONE_BY, reorient
from heartbox.models.weights import load_weights
from heartbox.xray.borders import Window
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

    Attributes
    ----------
    network : BoxNet
        The same network for inference alone (:func:`heartbox.models.folding.fold_batch_norm`).
    """

    def __init__(self, model: BoxNet, config: WeightsConfig):
        self.model = model.eval()
        self.config = config
        self.network = fold_batch_norm(self.model)

    @classmethod
    def from_weights(cls, source: str | Path, sha256: str | None = None) -> HeartDetector:
        """Load weights written by notebook 03 or released with the project.

        Parameters
        ----------
        source : path or str
            A file, or an https address; what an address gives is kept, so that the next time needs no network. A file
            that ``heartbox export`` wrote (``.onnx``) answers faster on a processor, and cannot be explained.
        sha256 : str, optional
            What the file's SHA-256 must be. An address needs one; the model card gives it.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file has another SHA-256, is not a Heartbox weights file or does not fit the network it names.
        OSError
            If it cannot be fetched.
        """
        load = load_onnx if str(source).endswith(".onnx") else load_weights
        return cls(*load(source, sha256))

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
            Boxes, ratio, margins, quality flags and notes.

        Raises
        ------
        XRayError
            If the file cannot be read as an X-ray, or the array is not an image.
        """
        return self.detect_each([source])[0]

    def detect_each(self, sources: Sequence[str | Path | XRay | NDArray], batch_size: int = 16) -> list[HeartDetection]:
        """Find the heart in several X-rays in batches; the answers are those of :meth:`detect`.

        Parameters
        ----------
        sources : sequence
            Each as for :meth:`detect`, of any size.
        batch_size : int
            How many go through the network together; this affects only speed and memory.

        Returns
        -------
        list of HeartDetection
            In the order of `sources`.

        Raises
        ------
        XRayError
            If one of them cannot be read, or `sources` is a single X-ray. To go on after a bad file, call
            :meth:`detect` for each.
        """
        if isinstance(sources, str | Path | XRay | np.ndarray):
            raise XRayError("detect_each takes a list of X-rays; for a single one use detect")
        answers = []
        sources = list(sources)
        for start in range(0, len(sources), batch_size):
            xrays = [as_xray(source) for source in sources[start : start + batch_size]]
            x = torch.cat([self.to_tensor(xray) for xray in xrays])
            coordinates, std, lying = self._run(x)
            looks = self._orientations(x, std) if lying is None else [self._look(one) for one in lying]
            answers += [self._answer(*one) for one in zip(xrays, coordinates, std, looks, strict=True)]
        return answers

    def _answer(self, xray: XRay, coordinates: NDArray, std: NDArray, looks: str) -> HeartDetection:
        """Turn the network's output, in pixels of its input, into an answer in pixels of the film."""
        boxes = self._place(coordinates.reshape(-1, EDGES_PER_BOX), xray.window)
        heart, thorax = boxes[0], boxes[1] if "thorax" in self.config.targets else None
        has_heart = box_areas(heart) > 0  # edges in the wrong order enclose nothing, so there is no ratio either
        ctr = float(cardiothoracic_ratio(heart, thorax)) if has_heart and thorax is not None else math.nan
        flags = check_training(xray, self.config.layout)
        interval = ctr_interval = level = None
        # Margins measured on synthetic films say nothing about a real one.
        if self.config.calibration and has_heart and not flags:
            level = self.config.calibration.level
            interval, ctr_interval = self._intervals(coordinates, std, xray.window, ctr)
        if not flags:
            flags = check_certainty(std[HEART], self.config.calibration, looks, self.config.size)
        flags += check_quality(xray, heart, thorax, interval, ctr_interval)
        return HeartDetection(
            xray=xray,
            heart=heart,
            heart_interval=interval,
            thorax=thorax,
            ctr=None if math.isnan(ctr) else ctr,
            ctr_interval=ctr_interval,
            level=level,
            warnings=flags,
            notes=collect_notes(xray, thorax),
            weights=self.digest,
        )

    def _intervals(
        self, coordinates: NDArray, std: NDArray, window: Window, ctr: float
    ) -> tuple[NDArray, tuple[float, float] | None]:
        """Return the bounds of the heart's edges, (4, 2) in pixels of the film, and of the ratio where there is one."""
        margin, ctr_margin = margins(self.config.calibration, coordinates, std)
        around = np.stack([coordinates[HEART] - margin[HEART], coordinates[HEART] + margin[HEART]])
        interval = self._place(around, window).T
        if math.isnan(ctr) or ctr_margin is None:
            return interval, None
        return interval, (max(ctr - float(ctr_margin), 0.0), ctr + float(ctr_margin))

    def _place(self, boxes: NDArray, window: Window) -> NDArray[np.float64]:
        """Move boxes, (..., 4) in pixels of the network's input, to the part of the film that it was made from."""
        size = self.config.size
        return clip_boxes(scale_boxes(boxes, (size, size), window.shape), window.shape) + window.corner

    def explain(self, source: str | Path | XRay | NDArray, method: str = "integrated gradients") -> NDArray[np.float32]:
        """Return one signed evidence map for each heart edge.

        Parameters
        ----------
        source
            As for :meth:`detect`.
        method : {"integrated gradients", "occlusion", "gradients"}
            ``"integrated gradients"`` has the finest maps, whose sum is how far the edge moves from a blurred film to
            this one; it takes some seconds. ``"occlusion"`` blurs patch after patch, and takes longer.
            ``"gradients"`` is instant, on the network's own grid: the exact class-activation map for the classic
            head, HiResCAM for others, whose maps show the right places but not the right signs. See
            :mod:`heartbox.explain.attribution` for the methods, :mod:`heartbox.explain.faithfulness` for their
            checks and ``benchmarks/results/explanation_faithfulness.md`` for how each method scores.

        Returns
        -------
        ndarray of float32, shape (4, rows, columns)
            For ``x_min, y_min, x_max, y_max``: positive where the image pushes the edge right or down, negative
            where it pushes it left or up. Enlarged to the original image; zero in a plain border that
            was cropped.

        Raises
        ------
        XRayError
            As :meth:`detect`.
        ValueError
            If there is no such method, or the weights are an ONNX file, which has no gradients.
        """
        if isinstance(self.model, OnnxNet):
            raise ValueError("an ONNX file cannot be explained: load the weights that it was exported from")
        if method not in EXPLANATIONS:
            raise ValueError(f"unknown method {method!r}: choose one of {', '.join(EXPLANATIONS)}")
        xray = as_xray(source)
        maps = EXPLANATIONS[method](self.network, self.to_tensor(xray))[0, HEART].numpy()
        on_film = np.zeros((len(maps), *xray.image.shape), np.float32)
        for map_, whole in zip(maps, on_film, strict=True):
            xray.window.of(whole)[...] = cv2.resize(map_, xray.window.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return on_film

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the config and the weights, 64 hexadecimal digits: the same answers have the same digest."""
        config = json.dumps(self.config.to_dict(), sort_keys=True, default=str).encode()
        state = b"".join(value.numpy().tobytes() for value in self.model.state_dict().values())
        return hashlib.sha256(config + state).hexdigest()

    @property
    def _usual_std(self) -> float | None:
        """Mean standard deviation, in pixels, that ordinary films stay below; None where the weights do not say."""
        return self.config.calibration and self.config.calibration.usual_std

    @staticmethod
    def _look(probabilities: NDArray) -> str:
        """Tell how a film lies from the probabilities of the orientations: one of `LOOKS`, or "" for upright."""
        if probabilities[0] >= UPRIGHT_ABOVE:
            return ""
        return f"looks-{ORIENTATIONS[1 + int(probabilities[1:].argmax())]}"

    def _orientations(self, x: torch.Tensor, std: NDArray) -> list[str]:
        """Tell for each film which way it may lie wrong, for weights that have no orientation head.

        The variant that the network is surest of is taken to be the right way round.

        All films are tried mirrored, because some mirrored ones look possible to the network: a few people have
        their heart on the right. The other variants leave it undecided, so only undecided films are tried.

        Returns
        -------
        list of str
            One of :data:`heartbox.inference.quality_checks.LOOKS` for each film, or "".
        """
        if self._usual_std is None:
            return [""] * len(x)
        asis = std[:, HEART].mean(axis=1)
        black_and_white = (1 - 2 * self.config.mean) / self.config.std
        lying = ORIENTATIONS[1:7]  # those that can be undone
        codes, variant_std = [f"looks-{name}" for name in lying], np.full((len(lying), len(x)), np.inf)
        for k, name in enumerate(lying):
            tried = np.ones(len(x), bool) if k == 0 else asis > self._usual_std
            if tried.any():
                variant = reorient(x[torch.from_numpy(tried)], UNDONE_BY.get(name, name), black_and_white)
                variant_std[k, tried] = self._run(variant)[1][:, HEART].mean(axis=1)
        best = variant_std.argmin(axis=0)
        return [codes[k] if is_surer(variant_std[k, i], asis[i]) else "" for i, k in enumerate(best)]

    def shown(self, xray: XRay) -> NDArray[np.float32]:
        """Return the film as the network sees it, without plain borders, (size, size) in [0, 1], as in training."""
        image = resize_xray(xray.content, self.config.size)
        if self.config.normalizes_contrast:  # an earlier version was trained without
            image = normalize_contrast(image)
        # Training images were stored as float16: the same rounding here makes the same film the same input.
        return image.astype(np.float16).astype(np.float32)

    def to_tensor(self, xray: XRay) -> torch.Tensor:
        """Turn an X-ray into the network's input, (1, 1, size, size), z-normalised as in training."""
        image = self.shown(xray)
        return torch.from_numpy((image - self.config.mean) / self.config.std).float()[None, None]

    @torch.inference_mode()
    def _run(self, x: torch.Tensor) -> tuple[NDArray, NDArray, NDArray | None]:
        """Return what the network says of its input.

        Coordinates and standard deviations, (N, 4 * targets) each, in pixels of the input; and the probabilities of
        the orientations, (N, 9), or None for weights without that head.
        """
        features = self.network.features(x.contiguous(memory_format=torch.channels_last))
        coordinates, std = self.network.coordinates_and_std(features)
        coordinates = coordinates.double().numpy()
        std = np.ones_like(coordinates) if std is None else std.double().numpy()
        lying = self.network.predict_orientation(features)
        return coordinates, std, None if lying is None else lying.softmax(dim=1).numpy()
