import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from dynfusion.encoders.structure import structure_arrays
from dynfusion.evaluation.tasks.structure import Structure, scaffold_groups

L_ALANINE, D_ALANINE = "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"
IBUPROFEN, IBUPROFEN_D = "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "[2H]C(C)(C)Cc1ccc(cc1)C(C)C(O)=O"
CAFFEINE, NAPHTHALENE = "Cn1c(=O)c2c(ncn2C)n(C)c1=O", "c1ccc2ccccc2c1"
BAD = "C1CC"


def test_structures_of_known_molecules() -> None:
    found = structure_arrays([L_ALANINE, D_ALANINE, IBUPROFEN, IBUPROFEN_D, CAFFEINE, NAPHTHALENE, BAD, ""])
    assert found.keys[0] == found.keys[1] == "CC(N)C(=O)O"
    assert found.keys[2] != found.keys[3], "deuterium as an atom of its own is a heavier graph"
    assert found.scaffolds.tolist() == [
        "",
        "",
        "c1ccccc1",
        "c1ccccc1",
        "O=c1[nH]c(=O)c2[nH]cnc2[nH]1",
        "c1ccc2ccccc2c1",
        "",
        "",
    ]
    assert found.heavy_atoms.tolist()[:3] == [6, 6, 15]
    assert found.heavy_atoms.tolist()[4:] == [14, 10, 0, 0]
    assert found.keys[6:].tolist() == ["", ""]
    assert not found.fingerprints[6:].any()


def test_fingerprints_are_ecfp_counts_and_are_clipped_instead_of_wrapped() -> None:
    long = "C" * 400
    found = structure_arrays([CAFFEINE, long]).fingerprints
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    counts = [generator.GetCountFingerprintAsNumPy(Chem.MolFromSmiles(text)) for text in (CAFFEINE, long)]
    np.testing.assert_array_equal(found[0], counts[0])
    np.testing.assert_array_equal(found[1], np.minimum(counts[1], 255))
    assert counts[1].max() > 255


def test_a_group_is_a_scaffold_else_the_molecule_else_the_row() -> None:
    smiles = [IBUPROFEN, "c1ccccc1C", L_ALANINE, D_ALANINE, "CCO", BAD, BAD]
    names = scaffold_groups(Structure(*structure_arrays(smiles)))
    assert names.tolist() == ["c1ccccc1", "c1ccccc1", "CC(N)C(=O)O", "CC(N)C(=O)O", "CCO", "row 5", "row 6"]
