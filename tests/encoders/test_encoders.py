"""The three encoders against counts made by hand, and what all of them promise."""

import subprocess
import sys
import zlib

import numpy as np
import pytest
import selfies
from rdkit import Chem
from rdkit.Chem import Descriptors

from dynfusion.encoders import descriptors, morgan, selfies_ngrams
from dynfusion.encoders.embed import ENCODERS
from dynfusion.encoders.encoded import Encoded, to_float16
from dynfusion.store.reasons import Reason

UNWRITABLE_IN_SELFIES = "Cc1cccc[n+]1C.Cl[I]Cl"
MOLECULES = [
    "CCO",
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1CCC[C@H]1c1cccnc1",
    "CN1CC[C@]23c4c5ccc(O)c4O[C@H]2[C@@H](O)C=C[C@H]3[C@H]1C5",
    "Cl[Hg]Cl",
    "[Na+].CC(=O)[O-]",
    "NCC(=O)" * 40 + "O",
]


def counts(values: np.ndarray) -> list[int]:
    """The counts behind one row of log(1 + count), largest first, zeros left out."""
    found = np.rint(np.expm1(values)).astype(int)
    np.testing.assert_allclose(np.log1p(found), values, rtol=1e-6)
    return sorted(found[found > 0].tolist(), reverse=True)


def test_ethanol_has_six_morgan_neighbourhoods_once_each_and_benzene_three_of_them_six_times() -> None:
    # Ethanol: three atoms, and three with their neighbours; two bonds away lies nothing that was not counted.
    # Benzene: every atom looks the same at radius 0, 1 and 2.
    encoded = morgan.encode(["CCO", "c1ccccc1"])
    assert counts(encoded.values[0]) == [1] * 6
    assert counts(encoded.values[1]) == [6, 6, 6]


def test_ethanols_selfies_runs_are_counted_in_their_columns() -> None:
    row = selfies_ngrams.encode(["OCC"]).values[0]
    by_hand = {"[C]": 2, "[O]": 1, "[C][C]": 1, "[C][O]": 1, "[C][C][O]": 1}
    assert selfies_ngrams.tokens("OCC") == ["[C]", "[C]", "[O]"]
    assert counts(row) == [2, 1, 1, 1, 1]
    for ngram, count in by_hand.items():
        assert row[selfies_ngrams.column(ngram)] == pytest.approx(np.log1p(count))


def test_the_hash_of_an_ngram_is_crc32() -> None:
    assert selfies_ngrams.column("123456789") == 0xCBF43926 % selfies_ngrams.DIM == zlib.crc32(b"123456789") % 512


def test_a_molecule_that_selfies_cannot_write_is_absent_there_and_present_elsewhere() -> None:
    with pytest.raises(selfies.EncoderError):
        selfies.encoder(Chem.CanonSmiles(UNWRITABLE_IN_SELFIES))
    encoded = selfies_ngrams.encode(["CCO", UNWRITABLE_IN_SELFIES])
    assert encoded.reasons.tolist() == [Reason.PRESENT, Reason.FAILED]
    assert np.isnan(encoded.values[1]).all()
    assert morgan.encode([UNWRITABLE_IN_SELFIES]).reasons.tolist() == [Reason.PRESENT]
    assert descriptors.encode([UNWRITABLE_IN_SELFIES]).reasons.tolist() == [Reason.PRESENT]


def test_descriptors_are_rdkits_without_ipc_on_a_signed_logarithm() -> None:
    row = descriptors.encode(["CCO"]).values[0]
    ethanol = Chem.MolFromSmiles("CCO")
    expected = [
        np.log1p(abs(x)) * np.sign(x)
        for name, x in Descriptors.CalcMolDescriptors(ethanol).items()
        if name not in ("Ipc", "AvgIpc")
    ]
    np.testing.assert_allclose(row, [*expected, 0.0], rtol=1e-6)
    assert row[descriptors.names().index("MolWt")] == pytest.approx(np.log(1 + 46.069), abs=1e-4)


def test_the_signed_logarithm_by_hand() -> None:
    values = np.array([0.0, np.e - 1, 1 - np.e, np.finfo(np.float64).max])
    np.testing.assert_allclose(descriptors.signed_log(values), [0.0, 1.0, -1.0, 709.78271], rtol=1e-6)


def test_a_lone_descriptor_without_a_value_becomes_zero_and_raises_the_flag() -> None:
    np.testing.assert_array_equal(descriptors.with_flag(np.array([0.0, np.nan, np.inf])), [0.0, 0.0, 0.0, 1.0])
    np.testing.assert_array_equal(descriptors.with_flag(np.array([0.0, 0.0])), [0.0, 0.0, 0.0])
    assert descriptors.with_flag(np.array([np.nan, np.inf])) is None


def test_mercury_chloride_has_no_partial_charges_and_says_so() -> None:
    encoded = descriptors.encode(["Cl[Hg]Cl", "CCCl"])
    assert encoded.reasons.tolist() == [Reason.PRESENT, Reason.PRESENT]
    assert encoded.values[:, -1].tolist() == [1.0, 0.0]
    assert np.isnan(Descriptors.MaxPartialCharge(Chem.MolFromSmiles("Cl[Hg]Cl")))
    assert encoded.values[0, descriptors.names().index("MaxPartialCharge")] == 0.0


@pytest.mark.parametrize("name", ENCODERS)
def test_values_survive_float16(name: str) -> None:
    encoded = ENCODERS[name].encode(MOLECULES)
    values, reasons = to_float16(encoded)
    assert reasons.tolist() == [Reason.PRESENT] * len(MOLECULES)
    np.testing.assert_allclose(values, encoded.values, rtol=2**-11, atol=2**-25)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_row_depends_on_its_own_smiles_alone(name: str) -> None:
    rows = [*MOLECULES[:3], "unreadable"]
    together = ENCODERS[name].encode(rows)
    assert together.reasons.tolist() == [Reason.PRESENT] * 3 + [Reason.FAILED]
    for row in reversed(range(len(rows))):
        alone = ENCODERS[name].encode([rows[row]])
        np.testing.assert_array_equal(alone.values[0], together.values[row])


def test_another_process_with_another_hash_seed_computes_the_same_bytes() -> None:
    program = (
        "import hashlib, sys; from dynfusion.encoders.embed import ENCODERS;"
        "print([hashlib.sha256(e.encode(sys.argv[1:]).values.tobytes()).hexdigest() for e in ENCODERS.values()])"
    )
    commands = [[sys.executable, "-c", program, *MOLECULES[:4]]] * 2
    first, second = (
        subprocess.run(command, env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True).stdout
        for command, seed in zip(commands, "12", strict=True)
    )
    assert first == second


def test_importing_the_encoders_does_not_import_the_optional_packages() -> None:
    program = (
        "import sys, dynfusion.encoders.embed, dynfusion.encoders.embedded_data, dynfusion.encoders.absence;"
        "print(sorted({'rdkit', 'selfies', 'datamol', 'torch', 'ray', 'deepspeed'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert loaded == "[]\n"


def test_a_vector_that_float16_cannot_hold_becomes_absent_with_its_reason() -> None:
    values = np.array([[1.0, 65504.0], [1.0, 65536.0], [np.inf, 0.0], [np.nan, 0.0], [np.nan, np.nan]], np.float32)
    reasons = np.array([Reason.PRESENT] * 4 + [Reason.FAILED], np.uint8)
    stored, stored_reasons = to_float16(Encoded(values, reasons))
    assert stored_reasons.tolist() == [Reason.PRESENT] + [Reason.NOT_FINITE] * 3 + [Reason.FAILED]
    assert stored[0].tolist() == [1.0, 65504.0]
    assert np.isnan(stored[1:]).all()
