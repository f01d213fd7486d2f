"""A small training to share: python -m torch.distributed.run tests/shared_training.py PROCESSED OUT AUGMENT.

With STOP_AFTER in the environment it breaks off after that many epochs; DEVICE names another device than the CPU.
"""

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from cardiac_dataset import CardiacDataset
from heartbox.models.heads import BoxNet
from heartbox.training.loop import fit
from heartbox.training.recipes import BoxTask, Recipe

# 24 films make three batches of seven and one of three, whose parts differ.
RECIPE = Recipe(head="regression", loss="box", epochs=3, batch_size=7, learning_rate=3e-3, average=0.9)


class SmallNet(BoxNet):
    """A network without batch normalisation, whose statistics processes on CPUs do not share."""

    head_name = "regression"

    def __init__(self):
        super().__init__("resnet18", 2, 64)
        convolutions = [nn.Conv2d(1, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 8, 5, 4, 2), nn.ReLU()]
        self.features = nn.Sequential(*convolutions)
        self.regress = nn.Linear(8 * 16, 8)

    def coordinates(self, features: Tensor) -> Tensor:
        return 32 + 10 * self.regress(features.flatten(1))


def main() -> None:
    processed, out, augment = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "augmented"
    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", 0))
    torch.manual_seed(rank)  # every process starts from other weights: those of process 0 count
    if rank:
        torch.save = Path.write_text = None  # only process 0 writes
    train = CardiacDataset(processed, "train", augment, ("heart", "thorax"))
    val = CardiacDataset(processed, "val", targets=("heart", "thorax"))
    stop = int(os.environ.get("STOP_AFTER", 0))

    def on_epoch(epoch, answers, history) -> None:
        assert rank == 0 and len(answers) == len(val)
        if epoch > stop > 0:  # the checkpoint of the epoch before is complete
            raise SystemExit("stopped")

    model = SmallNet()
    device = os.environ.get("DEVICE", "cpu")
    table = fit(model, train, val, BoxTask(RECIPE), out, device=device, on_epoch=on_epoch, progress=False)
    assert len(table) == RECIPE.epochs
    total = sum(float(weights.double().sum()) for weights in model.state_dict().values())
    print(f"rank {rank}: {total:.6f}", flush=True)


if __name__ == "__main__":
    main()
