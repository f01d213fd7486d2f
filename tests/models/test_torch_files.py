"""Files that torch wrote: damage that would change a number is noticed, wherever it is, and no code is run."""

import pytest
import torch

from heartbox.models.torch_files import all_finite, read_torch_file


def test_no_flipped_bit_changes_what_is_read(tmp_path):
    """Each byte in turn. A bit of padding may pass; then the content must be the same."""
    path = tmp_path / "file.pt"
    content = {"weight": torch.arange(8.0), "bias": torch.ones(2), "size": 64}
    torch.save(content, path)
    raw = path.read_bytes()
    noticed = 0
    for place in range(len(raw)):
        spoilt = bytearray(raw)
        spoilt[place] ^= 1 << place % 8
        path.write_bytes(bytes(spoilt))
        try:
            again = read_torch_file(path, "Fetch it again")
        except ValueError as error:
            assert "file.pt" in str(error) and "Fetch it again" in str(error)
            noticed += 1
            continue
        assert again.keys() == content.keys() and again["size"] == 64
        assert torch.equal(again["weight"], content["weight"]) and torch.equal(again["bias"], content["bias"])
    assert noticed > len(raw) / 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_found_anywhere(value):
    assert all_finite({"a": [1.0, {"b": torch.ones(3)}], "c": "text", "d": None, "e": (2, torch.tensor(3))})
    for content in (value, [value], {"a": (1, value)}, torch.tensor([1.0, value]), {"b": {"c": torch.tensor(value)}}):
        assert not all_finite(content)
