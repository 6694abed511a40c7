"""Weights in the wrappings that training programs put around them, and the cause where they cannot be read."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from metrad.errors import InputError
from metrad.models.backbones import convnet
from metrad.models.weights import fit_weights, read_weights


def model():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


STATE = {key: torch.full_like(value, 0.5) for key, value in model().state_dict().items()}


def prefixed(prefix):
    return {f"{prefix}{key}": value for key, value in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        prefixed("module."),
        {"state_dict": STATE, "epoch": 3},
        {"model": prefixed("module."), "optimizer": {"lr": 1}},
        {
            "state_dict": prefixed("model.backbone.") | {"model.head.weight": torch.zeros(1)},
            "hyper_parameters": {"lr": 1},
        },
        {"model_state_dict": prefixed("_orig_mod.")},
        {"state_dict": prefixed("module.encoder_q.") | {"module.encoder_k.0.weight": torch.zeros(3, 2)}},
    ],
)
def test_weights_are_read_in_their_usual_wrappings(content, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    found = model()
    fit_weights(found, read_weights(str(tmp_path / "weights.pth")), "weights.pth")
    assert all((value == 0.5).all() for value in found.state_dict().values())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (model(), "cannot be read as weights (it holds objects beside tensors, such as a whole model; save torch.save"),
        ({"state_dict": STATE, "model": STATE}, "several state dicts, state_dict and model, not one"),
        ({"epoch": 3, "args": {"lr": 1}}, "holds the entries epoch, args, not one state dict"),
        ({}, "not one state dict"),
        ([1], "holds list"),
    ],
)
def test_what_is_no_state_dict_is_refused_with_its_cause(content, says, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(InputError) as error:
        read_weights(str(tmp_path / "weights.pth"))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"these are no weights", "was not written by torch.save"),
        (b"", "was not written by torch.save"),
        (pickle.dumps(Path("weights")), "holds objects beside tensors"),
    ],
)
def test_another_file_is_refused_without_torchs_advice_to_run_its_code(content, says, tmp_path):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        read_weights(str(tmp_path / "weights.pth"))
    assert "weights_only" not in str(error.value)


def test_an_address_is_no_file_and_the_small_network_has_no_weights_of_imagenet():
    with pytest.raises(InputError, match=r"weights=https://example\.org/w\.pth is an address; download the file"):
        read_weights("https://example.org/w.pth")
    with pytest.raises(InputError, match=r"weights=imagenet: nobody trained this small network .* file or null"):
        convnet(channels=[8], weights="imagenet")


def test_weights_of_another_model_name_what_the_file_begins_with():
    with pytest.raises(
        InputError, match=r"first 0\.bias: wanted \(3,\), got nothing; the first in the file is stem\.w"
    ):
        fit_weights(model(), {"stem.w": torch.zeros(1)}, "weights.pth")
