"""The model in a notebook: absent modalities, wrong input, a folder and back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dynfusion.fusion.api import FusionModel, save_weights
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from tests.fusion.cases import SMALL, WIDTHS

ROWS = 20


@pytest.fixture
def model() -> FusionModel:
    torch.manual_seed(0)
    network = FusionNetwork(WIDTHS, SMALL)
    network.set_statistics({name: ([0.5] * width, [2.0] * width) for name, width in WIDTHS.items()})
    return FusionModel(network, batch_rows=7)


def embeddings() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {name: draw.normal(0.5, 2, (ROWS, width)).astype(np.float32) for name, width in WIDTHS.items()}


def test_a_modality_left_out_none_masked_or_nan_is_the_same_absence(model: FusionModel) -> None:
    given = embeddings()
    without = {name: value for name, value in given.items() if name != "b"}
    expected = model.encode(without)
    assert expected.shape == (ROWS, model.dim)
    nan = {**given, "b": np.full_like(given["b"], np.nan)}
    for other in (model.encode({**given, "b": None}), model.encode(nan)):
        np.testing.assert_array_equal(other, expected)
    masked = model.encode(given, present={"b": np.zeros(ROWS, dtype=bool)})
    np.testing.assert_array_equal(masked, expected)


def test_rows_absent_by_mask_are_encoded_row_by_row(model: FusionModel) -> None:
    given, here = embeddings(), np.arange(ROWS) % 2 == 0
    fused = model.encode(given, present={"c": here})
    np.testing.assert_allclose(fused[here], model.encode(given)[here], atol=1e-6)
    np.testing.assert_allclose(fused[~here], model.encode({**given, "c": None})[~here], atol=1e-6)


def test_reconstruction_is_in_the_original_units(model: FusionModel) -> None:
    given = embeddings()
    fused = torch.as_tensor(model.encode({"a": given["a"]}))
    standardised = model.network.decode(fused)[2].detach().numpy()
    np.testing.assert_allclose(model.reconstruct({"a": given["a"]})["c"], standardised * 2 + 0.5, atol=1e-5)


def test_attention_is_zero_for_what_is_left_out(model: FusionModel) -> None:
    given = embeddings()
    attention = model.attention({"a": given["a"], "c": given["c"]})
    assert (attention[:, 1] == 0).all()
    np.testing.assert_allclose(attention.sum(axis=1), 1, atol=1e-6)


def test_weighted_projections_add_up_to_the_fused_embedding(model: FusionModel) -> None:
    given, here = embeddings(), np.arange(ROWS) % 2 == 0
    present = {"c": here}
    plain = FusionModel(FusionNetwork(WIDTHS, SMALL.model_copy(update={"completion": False})))
    plain.network.load_state_dict(model.network.state_dict())
    projections, attention = model.projections(given, present), model.attention(given, present)
    total = sum(attention[:, [column]] * projections[name] for column, name in enumerate(model.modalities))
    np.testing.assert_allclose(total, plain.encode(given, present), atol=1e-5)
    np.testing.assert_allclose(total[here], model.encode(given, present)[here], atol=1e-5)
    assert (projections["c"][~here] == 0).all()
    np.testing.assert_allclose(projections["b"], model.projections({"b": given["b"]})["b"], atol=1e-6)


def test_gates_say_what_is_let_through_to_the_projection(model: FusionModel) -> None:
    given, here = embeddings(), np.arange(ROWS) % 2 == 0
    gates = model.gates(given, {"a": here})
    assert {name: value.shape for name, value in gates.items()} == {name: (ROWS, w) for name, w in WIDTHS.items()}
    assert (gates["a"][~here] == 0).all()
    tower = model.network.towers[0]
    standardised = torch.as_tensor((given["a"] - 0.5) / 2)
    expected = torch.nn.functional.linear(
        torch.as_tensor(gates["a"]) * standardised, tower.projection.weight, tower.projection.bias
    )
    np.testing.assert_allclose(model.projections(given)["a"][here], expected.detach().numpy()[here], atol=1e-5)


def test_an_absent_modality_is_reconstructed_and_fused_like_a_present_one(model: FusionModel) -> None:
    given = embeddings()
    plain = FusionModel(FusionNetwork(WIDTHS, SMALL.model_copy(update={"completion": False})), batch_rows=7)
    plain.network.load_state_dict(model.network.state_dict())
    np.testing.assert_array_equal(model.encode(given), plain.encode(given))
    only = {"a": given["a"]}
    filled = {**plain.reconstruct(only), **only}
    np.testing.assert_allclose(model.encode(only), plain.encode(filled), atol=1e-5)
    assert np.abs(model.encode(only) - plain.encode(only)).max() > 1e-2
    np.testing.assert_array_equal(model.attention(only), plain.attention(only))


def test_a_reconstruction_beyond_the_bounds_or_where_nothing_varies_is_not_filled_in(model: FusionModel) -> None:
    network = model.network
    network.towers[1].std[2] = 0
    with torch.no_grad():
        network.decoders[1].linear.bias.fill_(1e4)
    values = [torch.zeros(1, width) for width in WIDTHS.values()]
    values[1] = torch.tensor([[1e4, 1e4, 0.5, 1e4, 1e4]])  # what is filled in: the bounds, and the mean
    plain = FusionModel(FusionNetwork(WIDTHS, SMALL.model_copy(update={"completion": False})), batch_rows=7)
    plain.network.load_state_dict(network.state_dict())
    values[2] = torch.as_tensor(plain.reconstruct({"a": np.zeros((1, 7), np.float32)})["c"])
    expected, _ = plain.network.encode(values, torch.ones(1, 3, dtype=torch.bool))
    np.testing.assert_allclose(model.encode({"a": values[0]}), expected.detach().numpy(), atol=1e-5)


def test_a_folder_that_does_not_name_completion_is_encoded_without(model: FusionModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    assert FusionModel.load(tmp_path).network.settings.completion
    config = json.loads((tmp_path / "config.json").read_text())
    del config["settings"]["completion"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert not FusionModel.load(tmp_path).network.settings.completion


def test_no_rows_give_no_rows(model: FusionModel) -> None:
    none = {name: value[:0] for name, value in embeddings().items()}
    assert model.encode(none).shape == (0, model.dim)
    for method in (model.reconstruct, model.gates):
        assert {name: value.shape for name, value in method(none).items()} == {n: (0, w) for n, w in WIDTHS.items()}
    assert {value.shape for value in model.projections(none).values()} == {(0, model.dim)}


def test_a_name_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    network = FusionNetwork({"uni mol": 3}, ModelSettings(dim=4, gate_hidden=2, decoder_hidden=3, score_hidden=2))
    with pytest.raises(ValueError, match="modality 'uni mol': allowed are letters"):
        save_weights(network, network.state_dict(), tmp_path)


def test_a_saved_model_gives_the_same_numbers(model: FusionModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = FusionModel.load(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    np.testing.assert_array_equal(loaded.encode(embeddings()), FusionModel(model.network).encode(embeddings()))
    for name, (mean, std) in loaded.statistics().items():
        assert mean.shape == (WIDTHS[name],)
        assert set(mean) == {0.5}
        assert set(std) == {2.0}


def test_wrong_input_is_refused_in_one_sentence(model: FusionModel) -> None:
    given = embeddings()
    cases = [
        ({"z": given["a"]}, None, "modality 'z': not known to this model, allowed are a, b, c"),
        ({"a": given["b"]}, None, r"modality 'a': found shape \(20, 5\), allowed is \(20, 7\)"),
        ({"a": given["a"], "b": given["b"][:3]}, None, r"modality 'b': found shape \(3, 5\), allowed is \(20, 5\)"),
        ({"a": None}, None, "embeddings: found none"),
        (given, {"a": np.ones(3, dtype=bool)}, r"presence of shape \(3,\), allowed is \(20,\)"),
        ({"a": given["a"]}, {"b": np.ones(ROWS, dtype=bool)}, "modality 'b': presence is given without embeddings"),
        ({"a": given["a"]}, {"a": np.arange(ROWS) > 2}, "row 0: no modality is present in 3 of 20 rows"),
    ]
    for values, present, message in cases:
        with pytest.raises(ValueError, match=message):
            model.encode(values, present=present)
    broken = given["a"].copy()
    broken[4, 2] = np.inf
    with pytest.raises(ValueError, match="modality 'a', row 4: found a value that is not finite"):
        model.encode({"a": broken})


def test_a_damaged_or_foreign_model_folder_is_refused(model: FusionModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json in it"):
        FusionModel.load(tmp_path)
    model.save(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="not readable as safetensors"):
        FusionModel.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04\x95pickle")
    with pytest.raises(ValueError, match="not readable as safetensors"):
        FusionModel.load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format": "other"}))
    with pytest.raises(ValueError, match="expected format 'dynfusion-model-1'"):
        FusionModel.load(tmp_path)
