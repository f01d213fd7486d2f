"""HeartDetector: weights and an X-ray -> the heart's box, its ratio to the chest, margins and doubts.

Uses xray, boxes, networks and evidence; knows nothing of training, of folders of data or of drawing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from heartbox.boxes import box_areas, cardiothoracic_ratio, clip_boxes, scale_boxes
from heartbox.calibration import USUAL, margins
from heartbox.contrast import EVEN, even_contrast
from heartbox.evidence import EXPLANATIONS
from heartbox.phantom.dicom import MAKER
from heartbox.weights import load_weights
from heartbox.xray import RADIOGRAPHY, XRay, XRayError, load_xray, resize_xray

FOREIGN = (
    "These weights were trained on synthetic films alone; on a real film their answer is a guess, without margins."
)
FOREIGN_PHANTOM = "These weights are for films of patients; this film is synthetic, so no margins are given."
UPRIGHT = re.compile(r"L\w*\\F\w*")  # Patient Orientation of a film as it is usually looked at
CHEST_WORDS = ("CHEST", "THORAX", "LUNG", "HEART", "RIB", "TORSO")
FEW_SHADES = 16  # dithered and posterised pictures; films have hundreds
VAGUE_RATIO = 0.1  # half-width of the ratio's margin; less does not tell a small heart from a large one
PLAIN = 0.2  # share of rows or columns in a border of one grey
ONE_GREY = 0.02  # difference of greys, out of 1, that is none: what JPEG leaves of a black border
SURER = 0.8  # a variant of the film that the network is at least this much surer of is how it should have been
CHEST_MM = (180, 420)  # inner width of the chest, from a child at school to the broadest adult


@dataclass(frozen=True)
class Found:
    """What the detector says of one X-ray. All boxes and edges are in pixels of the original image.

    Attributes
    ----------
    xray : XRay
        The image as read, with what its header says.
    heart : ndarray, shape (4,)
        ``x_min, y_min, x_max, y_max``.
    heart_interval : ndarray, shape (4, 2), or None
        Lower and upper bound of each edge; None where the weights carry no calibration.
    thorax : ndarray, shape (4,), or None
        The inner chest's box; None where the weights know no thorax.
    ctr : float or None
        Cardiothoracic ratio: width of the heart over width of the thorax.
    ctr_interval : tuple of float or None
        Its lower and upper bound.
    level : float or None
        Share of cases in which the bounds held when they were calibrated.
    warnings, notes : tuple of str
        Doubts that make the answer untrustworthy; caveats that do not.
    """

    xray: XRay
    heart: NDArray[np.float64]
    heart_interval: NDArray[np.float64] | None
    thorax: NDArray[np.float64] | None
    ctr: float | None
    ctr_interval: tuple[float, float] | None
    level: float | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def has_heart(self) -> bool:
        """Whether the edges stand in the right order, so that they enclose anything at all."""
        return bool(box_areas(self.heart) > 0)

    @property
    def heart_mm(self) -> tuple[float, float] | None:
        """Width and height of the heart in millimetres; None where the file has no pixel spacing, or a wrong one."""
        if self.xray.pixel_spacing is None or not self.has_heart or not spacing_is_plausible(self.xray, self.thorax):
            return None
        row_mm, column_mm = self.xray.pixel_spacing
        x_min, y_min, x_max, y_max = self.heart
        return float((x_max - x_min) * column_mm), float((y_max - y_min) * row_mm)

    @property
    def margins_mm(self) -> tuple[float, float, float, float] | None:
        """Half-widths of the margins of ``x_min, y_min, x_max, y_max`` in millimetres; None where there are none."""
        if self.heart_interval is None or self.heart_mm is None:
            return None
        row_mm, column_mm = self.xray.pixel_spacing
        half = (self.heart_interval[:, 1] - self.heart_interval[:, 0]) / 2 * [column_mm, row_mm, column_mm, row_mm]
        return tuple(float(one) for one in half)

    def summary(self) -> str:
        """Say the answer in a few plain lines."""
        if not self.has_heart:
            return "\n".join(["No heart was found.", *(f"Doubt: {text}" for text in self.warnings)])
        x_min, y_min, x_max, y_max = self.heart
        lines = [f"Heart: x {x_min:.0f} to {x_max:.0f}, y {y_min:.0f} to {y_max:.0f} pixels of the original image"]
        if self.heart_interval is not None:
            margins = (self.heart_interval[:, 1] - self.heart_interval[:, 0]) / 2
            named = ", ".join(
                f"{name} ±{m:.0f}" for name, m in zip(("x_min", "y_min", "x_max", "y_max"), margins, strict=True)
            )
            lines.append(f"Margins ({self.level:.0%}): {named} pixels")
            if self.margins_mm is not None:
                lines.append("which are " + ", ".join(f"±{m:.1f}" for m in self.margins_mm) + " mm")
        if self.heart_mm is not None:
            lines.append(f"Size: {self.heart_mm[0]:.0f} mm wide, {self.heart_mm[1]:.0f} mm high")
        if self.ctr is not None:
            between = "" if self.ctr_interval is None else " ({:.2f} to {:.2f})".format(*self.ctr_interval)
            lines.append(f"Cardiothoracic ratio: {self.ctr:.2f}{between}")
        lines += [f"Doubt: {text}" for text in self.warnings]
        lines += [f"Note: {text}" for text in self.notes]
        return "\n".join(lines)


class HeartDetector:
    """Finds the heart in chest X-rays with trained weights.

    Parameters
    ----------
    model : nn.Module
        From :func:`heartbox.networks.build_model`.
    config : dict
        As stored beside the weights: ``mean``, ``std``, ``size``, ``targets`` and, where there is one,
        ``calibration``.
    """

    def __init__(self, model: nn.Module, config: dict):
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

    def detect(self, source: str | Path | XRay | NDArray) -> Found:
        """Find the heart in one X-ray.

        Parameters
        ----------
        source : path, XRay or ndarray
            A file that :func:`heartbox.xray.load_xray` reads; what it returned; or a 2-D array with bone bright,
            either float in [0, 1] or unsigned integers over their full range.

        Returns
        -------
        Found
            Boxes, ratio, margins, doubts and caveats.

        Raises
        ------
        XRayError
            If the file cannot be read as an X-ray, or the array is not an image.
        """
        return self.detect_each([source])[0]

    def detect_each(self, sources: Sequence[str | Path | XRay | NDArray], batch_size: int = 16) -> list[Found]:
        """Find the heart in several X-rays, several at a time; the answers are those of :meth:`detect`.

        Parameters
        ----------
        sources : sequence
            Each as for :meth:`detect`; of any size, each of its own.
        batch_size : int
            How many go through the network together: a matter of speed and memory.

        Returns
        -------
        list of Found
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
            wrong = self._misread(x, spread)
            answers += [self._answer(*one) for one in zip(xrays, coordinates, spread, wrong, strict=True)]
        return answers

    def _answer(self, xray: XRay, coordinates: NDArray, spread: NDArray, wrong: str) -> Found:
        """Turn what the network says, in pixels of its input, into an answer in pixels of the film."""
        shape, size = xray.image.shape, self.config["size"]
        boxes = scale_boxes(coordinates.reshape(-1, 4), (size, size), shape)
        heart = clip_boxes(boxes[0], shape)
        thorax = clip_boxes(boxes[1], shape) if "thorax" in self.config["targets"] else None
        ctr = None if thorax is None else float(cardiothoracic_ratio(heart, thorax))
        # Edges in the wrong order enclose nothing: there is no heart, and no ratio and no margin of it either.
        lost = not box_areas(heart) > 0
        ctr = None if ctr is None or math.isnan(ctr) or lost else ctr
        interval, ctr_interval, level = None, None, None
        calibration = self.config.get("calibration")
        # Margins measured on synthetic films say nothing about a real one.
        foreign = self._foreign(xray)
        if calibration and not foreign and not lost:
            level = calibration["level"]
            margin, reach = margins(calibration, coordinates, spread)
            around = np.stack([coordinates[:4] - margin[:4], coordinates[:4] + margin[:4]])
            interval = clip_boxes(scale_boxes(around, (size, size), shape), shape).T
            if ctr is not None and reach is not None:
                ctr_interval = (max(ctr - float(reach), 0.0), ctr + float(reach))
        hesitation = () if foreign else self._hesitation(spread, wrong)
        warnings = (*foreign, *hesitation, *doubts(xray, heart, thorax, interval, ctr_interval))
        return Found(xray, heart, interval, thorax, ctr, ctr_interval, level, warnings, caveats(xray, thorax))

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
            whose maps only the places can be relied on, not the sign. See :mod:`heartbox.evidence` for the methods,
            :mod:`heartbox.faithfulness` for their checks and ``benchmarks/explanations.md`` for how they stand them.

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

    def _foreign(self, xray: XRay) -> tuple[str, ...]:
        """Doubt weights trained on phantoms that are asked about something else, and the other way round."""
        synthetic = xray.manufacturer == MAKER
        if (self.config["layout"] == "phantom") == synthetic:
            return ()
        return (FOREIGN_PHANTOM if synthetic else FOREIGN,)

    def _hesitation(self, spread: NDArray, wrong: str) -> tuple[str, ...]:
        """Doubt a film on which the edges' distributions are wider than on ordinary films.

        What is no upright frontal chest film (noise, a film upside down, turned, inverted or of something else)
        leaves the network undecided where an edge is, though the mean of an undecided distribution looks like a box.
        """
        usual, found = self._usual_spread, float(spread[:4].mean())
        said = []
        if usual is not None and found > usual:
            said.append(
                f"The network is undecided: its distributions for the heart's edges are {found:.1f} pixels wide (at "
                f"{self.config['size']}), where {USUAL:.0%} of the films that the margins were calibrated on have less "
                f"than {usual:.1f}."
            )
        if wrong:
            said.append(f"The film may be {wrong}: the network is surer of it the other way round.")
        return tuple(said)

    @property
    def _usual_spread(self) -> float | None:
        """Mean spread, in pixels, that ordinary films stay below; None where the weights do not know."""
        return (self.config.get("calibration") or {}).get("usual_spread")

    def _misread(self, x: torch.Tensor, spread: NDArray) -> list[str]:
        """Say for each film what may be wrong with the way it lies, by asking of what variant the network is surer.

        All films are tried mirrored, because some mirrored ones look possible to the network: a few people have
        their heart on the right. The other variants leave it undecided, so only undecided films are tried.
        """
        if self._usual_spread is None:
            return [""] * len(x)
        asis = spread[:, :4].mean(axis=1)
        # 1 - image, for images that are normalised.
        inverted = (1 - 2 * self.config["mean"]) / self.config["std"] - x
        variants = {
            "mirrored": x.flip(3),
            "turned by 90 degrees to the right": x.rot90(1, (2, 3)),
            "turned by 90 degrees to the left": x.rot90(-1, (2, 3)),
            "turned by 180 degrees": x.flip(2, 3),
            "upside down": x.flip(2),
            "inverted, bone dark": inverted,
        }
        names, sure = list(variants), np.full((len(variants), len(x)), np.inf)
        for k, variant in enumerate(variants.values()):
            tried = np.ones(len(x), bool) if k == 0 else asis > self._usual_spread
            if tried.any():
                sure[k, tried] = self._run(variant[torch.from_numpy(tried)])[1][:, :4].mean(axis=1)
        best = sure.argmin(axis=0)
        return [names[k] if is_surer(sure[k, i], asis[i]) else "" for i, k in enumerate(best)]

    def shown(self, xray: XRay) -> NDArray[np.float32]:
        """Return the film as the network is shown it, as in training: (size, size) in [0, 1], its contrast evened."""
        image = resize_xray(xray.image, self.config["size"])
        if self.config.get("contrast") == EVEN:  # weights of an earlier version saw films as they are
            image = even_contrast(image)
        # Training images were stored as float16: the same rounding here makes the same film the same input.
        return image.astype(np.float16).astype(np.float32)

    def to_tensor(self, xray: XRay) -> torch.Tensor:
        """Turn an X-ray into what the network takes: (1, 1, size, size), z-normalised as in training."""
        image = self.shown(xray)
        return torch.from_numpy((image - self.config["mean"]) / self.config["std"]).float()[None, None]

    @torch.no_grad()
    def _run(self, x: torch.Tensor) -> tuple[NDArray, NDArray]:
        """Return coordinates and spreads, (N, 4 * targets) each, in pixels of the network's input."""
        features = self.model.features(x)
        coordinates = self.model.read(features).double().numpy()
        if hasattr(self.model, "edges"):
            return coordinates, self.model.head(features).spread.double().numpy()
        return coordinates, np.ones_like(coordinates)


def is_surer(variant: NDArray | float, asis: NDArray | float) -> NDArray | bool:
    """Tell whether a variant's mean spread is so much below the film's own that it is the right way round."""
    return variant < SURER * asis


def as_xray(source: str | Path | XRay | NDArray) -> XRay:
    """Make an XRay of a path, of an array with bone bright, or of what is one already.

    Raises
    ------
    XRayError
        If the array is not 2-D, is empty, holds NaN or infinity, or floats outside [0, 1].
    """
    if isinstance(source, XRay):
        return source
    if isinstance(source, str | Path):
        if not str(source):
            raise XRayError("no file named: give the path of an X-ray")
        return load_xray(source)
    if not isinstance(source, np.ndarray) or isinstance(source, np.ma.MaskedArray):
        raise XRayError(f"{type(source).__name__}: neither a path nor a plain NumPy array; give one of these")
    array = source
    if array.ndim != 2 or array.size == 0:
        raise XRayError(f"array: an X-ray is a 2-D array (rows, columns), this has the shape {array.shape}")
    if np.issubdtype(array.dtype, np.unsignedinteger):
        full = np.iinfo(array.dtype).max
        if full > 255 and 1 < array.max() < full / 4:
            raise XRayError(
                f"array: {array.dtype} is read over its full range to {full}, but these values end at {array.max()} "
                f"(pixels of a 10- or 12-bit film?); divide them by their own full range, or give the file itself"
            )
        image = array.astype(np.float32) / np.iinfo(array.dtype).max
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise XRayError("array: holds NaN or infinite pixels; mend or mask them first")
        if array.min() < 0 or array.max() > 1:
            raise XRayError(
                f"array: floats must lie in [0, 1], these reach from {array.min():g} to {array.max():g}; rescale them"
            )
        image = array.astype(np.float32)
    else:
        raise XRayError(
            f"array: floats in [0, 1] or unsigned integers are read, not {array.dtype}; convert it, "
            "for example with image = image.astype('float32'); image -= image.min(); image /= image.max()"
        )
    return XRay(image, Path("array"))


def doubts(
    xray: XRay,
    heart: NDArray,
    thorax: NDArray | None,
    interval: NDArray | None = None,
    ctr_interval: tuple[float, float] | None = None,
) -> tuple[str, ...]:
    """List, as plain sentences, what makes an answer untrustworthy.

    Parameters
    ----------
    xray : XRay
        The image and its header.
    heart, thorax : ndarray, shape (4,)
        Boxes in pixels of the image; the thorax may be None.
    interval : ndarray, shape (4, 2), optional
        Bounds of the heart's edges.
    ctr_interval : tuple of float, optional
        Bounds of the cardiothoracic ratio.
    """
    found = []
    if np.ptp(np.percentile(xray.image, (5, 95))) < 0.05:
        found.append("There is hardly any contrast in this image.")
    rows, columns = xray.image.shape
    if min(rows, columns) < 128 or max(rows, columns) > 2.5 * min(rows, columns):
        found.append(f"{rows} rows x {columns} columns are not the size of a chest film.")
    border = plain_border(xray.image)
    if border > PLAIN:
        found.append(
            f"A border of one grey takes up {border:.0%} of the image, and the chest so much less of it than on the "
            "films that the network knows: crop it away and ask again."
        )
    shades = len(np.unique(xray.image[:: 1 + rows // 512, :: 1 + columns // 512]))
    if shades < FEW_SHADES:
        found.append(f"The image has {shades} shade{'s' * (shades != 1)} of grey only.")
    if xray.modality not in RADIOGRAPHY:
        found.append(f"The modality is {xray.modality}: this is not a plain X-ray.")
    if xray.body_part and not any(word in xray.body_part for word in CHEST_WORDS):
        found.append(f"Body Part Examined is {xray.body_part}: this is no film of the chest.")
    if xray.damage:
        found.append(f"The compressed pixels may be damaged, says the decoder ({xray.damage}): look at the picture.")
    if xray.view and not xray.view.startswith(("PA", "AP")):
        found.append(f"The view is {xray.view}; the network knows frontal films only.")
    if xray.orientation and not UPRIGHT.fullmatch(xray.orientation):
        found.append(
            f"Patient Orientation is {xray.orientation}, not L\\F: the film is turned, mirrored or "
            "lateral, and read as stored."
        )
    if not box_areas(heart) > 0:
        found.append("The heart's edges are in the wrong order, so there is no heart between them.")
        return tuple(found)
    share = float(box_areas(heart)) / (rows * columns)
    # The hearts of the 406 labelled real films at hand cover 7 to 26 % of their image.
    if not 0.02 < share < 0.40:
        found.append(f"The heart's box covers {share:.1%} of the image, which no heart on a chest film does.")
    if thorax is not None:
        ratio = float(cardiothoracic_ratio(heart, thorax))
        if math.isnan(ratio):
            found.append("No chest was found.")
        elif not 0.25 < ratio < 0.85:
            found.append(f"The cardiothoracic ratio of {ratio:.2f} is not plausible.")
        if heart[0] < thorax[0] or heart[2] > thorax[2] or heart[1] < thorax[1]:
            found.append("The heart's box reaches out of the chest's.")
    if interval is not None:
        width = interval[:, 1] - interval[:, 0]
        if (width > 0.2 * np.array([columns, rows, columns, rows])).any():
            found.append("The margin of at least one edge is wider than a fifth of the image.")
    if ctr_interval is not None and ctr_interval[1] - ctr_interval[0] > 2 * VAGUE_RATIO:
        found.append(
            "The cardiothoracic ratio is anywhere from {:.2f} to {:.2f}: too vague to be used.".format(*ctr_interval)
        )
    return tuple(found)


def plain_border(image: NDArray) -> float:
    """Return the share of rows or of columns, whichever is more, that are one grey from the border inward.

    An image that is one grey altogether has no border: 0.
    """

    def run(lines: NDArray) -> int:
        plain = np.ptp(lines, axis=1) <= ONE_GREY
        return int(np.argmin(plain)) + int(np.argmin(plain[::-1]))

    rows, columns = image.shape
    return 0.0 if np.ptp(image) <= ONE_GREY else max(run(image) / rows, run(image.T) / columns)


def spacing_is_plausible(xray: XRay, thorax: NDArray | None) -> bool:
    """Tell whether the file's pixel spacing gives a chest of a possible width; True where that cannot be told.

    Films that were shrunk for sharing often keep the spacing of the original.
    """
    if xray.pixel_spacing is None or thorax is None:
        return True
    return CHEST_MM[0] < (thorax[2] - thorax[0]) * xray.pixel_spacing[1] < CHEST_MM[1]


def caveats(xray: XRay, thorax: NDArray | None = None) -> tuple[str, ...]:
    """List, as plain sentences, what a reader of the numbers should know although the box is not in doubt."""
    found = list(xray.notes)
    if xray.view.startswith("AP"):
        found.append(
            f"View {xray.view}: the heart lies further from the detector and reads too wide, and the ratio too high."
        )
    elif not xray.view:
        found.append("The view is not known: in an AP view the ratio reads too high.")
    if xray.pixel_spacing is None:
        found.append("The file has no pixel spacing, so there is no size in millimetres.")
    elif not spacing_is_plausible(xray, thorax):
        width = (thorax[2] - thorax[0]) * xray.pixel_spacing[1]
        found.append(
            f"By the file's pixel spacing this chest is {width:.0f} mm wide: unless it is a small child's, either the "
            "spacing is not that of this image or the chest's box is wrong, so no millimetres are given."
        )
    return tuple(found)
