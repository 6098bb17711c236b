import pytest
from rdkit import Chem

from dynfusion.encoders.molecules import Molecules, RowError, canonical_key, canonical_keys, parse


def test_stereoisomers_isotopes_and_spellings_share_a_key() -> None:
    assert canonical_keys(["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "OC(=O)C(C)N", "[2H]OC(=O)C(C)N"]) == [
        "CC(N)C(=O)O",
        "CC(N)C(=O)O",
        "CC(N)C(=O)O",
        "[H]OC(=O)C(C)N",
    ]
    assert canonical_key("C/C=C/C") == canonical_key("C/C=C\\C") == canonical_key("CC=CC")


def test_a_salt_and_its_base_are_different_molecules() -> None:
    assert canonical_key("CN.Cl") != canonical_key("CN")


@pytest.mark.parametrize("smiles", ["", "C1CC", "c1cccc1", "C(C)(C)(C)(C)C", "CCO ethanol", "C C", "nonsense"])
def test_what_is_no_smiles_has_no_key(smiles: str) -> None:
    assert canonical_key(smiles) is None


def test_rdkit_is_silent_while_parsing_and_talks_again_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    assert parse("C1CC") is None
    assert capfd.readouterr().err == ""
    assert Chem.MolFromSmiles("C1CC") is None
    assert "unclosed ring" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("ids", "smiles", "sentence"),
    [
        (("a", "b", "a"), ("C", "CC", "CCC"), "row 3: id 'a' was already used in row 1, ids must be unique"),
        (("a", ""), ("C", "CC"), "row 2: the id is empty, every molecule needs one"),
        (("a", "b\nc"), ("C", "CC"), r"row 2: id 'b\\nc' or SMILES 'CC' holds a line break, which is not allowed"),
        (("a", "b"), ("C", "C\u2028C"), r"row 2: id 'b' or SMILES .* holds a line break, which is not allowed"),
    ],
)
def test_a_wrong_row_is_named(ids: tuple[str, ...], smiles: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(RowError, match=f"^{sentence}$"):
        Molecules(ids, smiles)


def test_no_molecule_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no molecule found, at least one row is needed"):
        Molecules((), ())
