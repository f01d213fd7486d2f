"""Weights as an ONNX file: written for other programs, and read back to answer faster on a processor.

The file holds the network, its outputs by name and the config of the weights file (calibration included) in its
metadata. Writing needs onnxscript, reading onnxruntime: ``pip install ".[onnx]"`` brings both. Knows networks
and their config; nothing of X-rays.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from heartbox.models.config import WeightsConfig
from heartbox.models.fetch import file_sha256
from heartbox.models.folding import fold_batch_norm
from heartbox.models.heads import BoxNet
from heartbox.models.weights import load_weights, locate_weights
from heartbox.utils.atomic import complete_or_absent

CONFIG_KEY = "heartbox"  # in the file's metadata
INPUT = "x"  # (batch, 1, size, size), z-normalised by the config's mean and std
COORDINATES, STD = "coordinates", "std"  # outputs, (batch, 4 * targets), in pixels of the input
ORIENTATION = "orientation"  # output of weights with an orientation head, (batch, 9) logits
MISSING = 'is missing. In the folder of Heartbox: python -m pip install ".[onnx]"'
WAY_OUT = "Export the weights again: heartbox export WEIGHTS MODEL.onnx"


class _Answers(nn.Module):
    """A network with all that it can tell of an image, by name."""

    def __init__(self, model: BoxNet):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.model.features(x)
        coordinates, std = self.model.coordinates_and_std(features)
        told = {COORDINATES: coordinates, STD: std, ORIENTATION: self.model.predict_orientation(features)}
        return {name: answer for name, answer in told.items() if answer is not None}


def export_onnx(weights: str | Path, target: str | Path, sha256: str | None = None) -> Path:
    """Write a weights file as ONNX.

    Parameters
    ----------
    weights, sha256
        As for :func:`heartbox.models.weights.load_weights`.
    target : path
        The file to write, ``.onnx``.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    FileNotFoundError, OSError
        As :func:`heartbox.models.weights.load_weights`.
    ValueError
        As that, or if onnxscript is not installed.
    """
    try:
        import onnxscript  # noqa: F401 (torch's exporter needs it and fails late without)
    except ImportError:
        raise ValueError(f"{target}: not written, onnxscript {MISSING}") from None
    model, config = load_weights(weights, sha256)
    answers = _Answers(fold_batch_norm(model)).eval()
    example = torch.zeros(2, 1, config.size, config.size)
    with torch.no_grad():
        names = list(answers(example))
    program = torch.onnx.export(
        answers,
        (example,),
        dynamo=True,
        input_names=[INPUT],
        output_names=names,
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    program.model.metadata_props[CONFIG_KEY] = json.dumps(config.to_dict(), sort_keys=True)
    with complete_or_absent(target) as part:
        program.save(part, external_data=False)
    return Path(target)


class OnnxNet(BoxNet):
    """A network in an ONNX file, run by onnxruntime: it answers as any other here, without layers to look into.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Of the file.
    config : WeightsConfig
        From its metadata.
    digest : str
        SHA-256 of the file, which tells it from other files as weights tell other networks.
    """

    def __init__(self, session, config: WeightsConfig, digest: str):
        super().__init__(config.backbone, len(config.targets), config.size, config.hidden)
        self.session, self.head_name = session, config.head
        self.register_buffer("digest", torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8))

    def __deepcopy__(self, memo: dict) -> OnnxNet:
        """Return the network itself: a session cannot be copied, and nothing changes it."""
        return self

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Run the whole network; what it tells takes the place of its features, which the file does not give out."""
        outputs = [output.name for output in self.session.get_outputs()]
        answers = self.session.run(outputs, {INPUT: np.ascontiguousarray(x.numpy())})
        return {name: torch.from_numpy(answer) for name, answer in zip(outputs, answers, strict=True)}

    def coordinates_and_std(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return coordinates and their standard deviations, (N, 4 * targets); the second is None without any."""
        return features[COORDINATES], features.get(STD)

    def coordinates(self, features: dict[str, Tensor]) -> Tensor:
        """Return coordinates, (N, 4 * targets), in pixels."""
        return features[COORDINATES]

    def predict_orientation(self, features: dict[str, Tensor]) -> Tensor | None:
        """Return the logits of the orientations, (N, 9); None for weights without that head."""
        return features.get(ORIENTATION)


def load_onnx(source: str | Path, sha256: str | None = None) -> tuple[OnnxNet, WeightsConfig]:
    """Read a file that :func:`export_onnx` wrote.

    Parameters and return value are those of :func:`heartbox.models.weights.load_weights`.

    Raises
    ------
    FileNotFoundError, OSError
        As that.
    ValueError
        If the file has another SHA-256, is damaged, was not written by :func:`export_onnx`, has a wrong config or a
        network that does not fit it, or if onnxruntime is not installed.
    """
    path = locate_weights(source, sha256)
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(f"{path}: onnxruntime {MISSING}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waits asleep, as torch's threads here
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common class of their own
        raise ValueError(f"{path}: not an ONNX file, or a damaged one ({type(error).__name__}). {WAY_OUT}") from error
    try:
        config = WeightsConfig.from_dict(
            json.loads(session.get_modelmeta().custom_metadata_map.get(CONFIG_KEY, "null"))
        )
        model = OnnxNet(session, config, file_sha256(path))
        _check_outputs(model, config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. {WAY_OUT}") from error
    return model.eval(), config


def _check_outputs(model: OnnxNet, config: WeightsConfig) -> None:
    """Refuse a network that does not answer as its config promises, by asking it once."""
    (taken,) = model.session.get_inputs()
    if taken.name != INPUT or taken.shape[1:] != [1, config.size, config.size]:
        raise ValueError(f"the network takes {taken.name} {taken.shape}, not images of {config.size} pixels")
    answers = model.features(torch.zeros(1, 1, config.size, config.size))
    expected = (1, 4 * len(config.targets))
    wrong = [name for name in (COORDINATES, STD) if name in answers and answers[name].shape != expected]
    if bool(config.orientations) != (ORIENTATION in answers):
        raise ValueError("the config speaks of orientations that the network does not tell, or the other way round")
    if COORDINATES not in answers or wrong:
        raise ValueError(f"the network's outputs {', '.join(answers)} are not those of {len(config.targets)} boxes")
    if not all(bool(answer.isfinite().all()) for answer in answers.values()):
        raise ValueError("the network answers NaN or infinite values")
