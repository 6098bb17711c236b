"""The six MoleculeNet classification sets: where they are published, what is in them, and what must arrive.

Source: Wu et al., MoleculeNet, Chem. Sci. 2018, 10.1039/C7SC02664A, in the files and with the train, valid and test
parts that IBM publishes (Apache-2.0). That split is not by scaffold: it shares scaffolds, and in bbbp and tox21 whole
molecules, between its parts.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from dynfusion.evaluation.tasks.task import SPLITS

PUBLISHED = (
    "https://raw.githubusercontent.com/IBM/materials/b89047d387d5da75cf2ac860b95b5ee3941ac1dc/"
    "models/smi_ted/finetune/moleculenet"
)


@dataclass(frozen=True)
class PublishedSet:
    """A set's label columns, and what its files must be."""

    labels: tuple[str, ...]
    sha256: Mapping[str, str]
    """By part, the `content_sha256` of its published file, which also has a column `smiles`."""
    whole_sha256: str
    """The `content_sha256` of the one file that `data fetch` writes from the published parts."""


def file_of(name: str, part: str) -> str:
    """Where a part's file lies, under the published address as under a local folder."""
    return f"{name}/{part}.csv"


def content_sha256(content: bytes) -> str:
    """SHA-256 of a text with the line ends of Unix, since Git gives the same file either kind."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def _parts(*digests: str) -> dict[str, str]:
    return dict(zip(SPLITS, digests, strict=True))


MOLECULENET: Mapping[str, PublishedSet] = {
    "bace": PublishedSet(
        ("Class",),
        _parts(
            "b5b3426e84dc7e2f40f2cf9d15d4d38328126c07f49c215cfb4fb657f69200de",
            "813c8f2af5a1058568cf60b7021b8b2cd818a17944afd0b09f9d838e36ee985d",
            "e3af97c680375dd09349c63b4779b35166212302e79e4fc7a1752ef5d71cf35b",
        ),
        "28f0f543d73471d12f9a025d61c05c1bb91738466649c9d75a83be43df123e21",
    ),
    "bbbp": PublishedSet(
        ("p_np",),
        _parts(
            "7300807bf21ea1177efd81c218e43275ed00b6c3006b5dae7625f774edb6b1a6",
            "af39cc3735a356010a072e1e196a64eca6e0d88f0b2a023d4dc1adba7030ce40",
            "cca4161c44535fd0f8ff917cc68d26703da7fbce19ddecb7dc5f7ae4b4d241a6",
        ),
        "0c22b77b529efae4fe38e4cb542994973f9082e4fe2024219f01116b30f54104",
    ),
    "clintox": PublishedSet(
        (
            "FDA_APPROVED",
            "CT_TOX",
        ),
        _parts(
            "04bbee4a0d7fb4942292c9581f318909d06508d529a4a3a76590e6749417c1a7",
            "f3e2b9ab566ffc184c0590002bfbd6a42e6522209e6d6271968262844dde2905",
            "963a05e8eeaaa38fd3688f448dfc28cd0917ea280b1b9cb5b4297244f7f68fe2",
        ),
        "0d234228563a5c0042b87c23f270fe92c678cbc748fa017fcba67bb53cf9836e",
    ),
    "hiv": PublishedSet(
        ("HIV_active",),
        _parts(
            "c289700d093d7ccbe55a583ad5cb3a670df931a19283ea66880413ed398358ff",
            "33dd9321f709fb4fbc4545b1bfdc641eaebc410f6f698b9ed331678c5b3c3514",
            "6e86ca708a331966f6e7b06621a2e221a9f6ce45f0141e6cbe919fd64ec50fc7",
        ),
        "324fbb9fc4092b61f67bc2ef6ee53982ec305ee68191d4b296d2c7bb6675db91",
    ),
    "sider": PublishedSet(
        (
            "Hepatobiliary disorders",
            "Metabolism and nutrition disorders",
            "Product issues",
            "Eye disorders",
            "Investigations",
            "Musculoskeletal and connective tissue disorders",
            "Gastrointestinal disorders",
            "Social circumstances",
            "Immune system disorders",
            "Reproductive system and breast disorders",
            "Neoplasms benign, malignant and unspecified (incl cysts and polyps)",
            "General disorders and administration site conditions",
            "Endocrine disorders",
            "Surgical and medical procedures",
            "Vascular disorders",
            "Blood and lymphatic system disorders",
            "Skin and subcutaneous tissue disorders",
            "Congenital, familial and genetic disorders",
            "Infections and infestations",
            "Respiratory, thoracic and mediastinal disorders",
            "Psychiatric disorders",
            "Renal and urinary disorders",
            "Pregnancy, puerperium and perinatal conditions",
            "Ear and labyrinth disorders",
            "Cardiac disorders",
            "Nervous system disorders",
            "Injury, poisoning and procedural complications",
        ),
        _parts(
            "c71e635cccf17c173fedfca7d91fa35c66c4d95f1c558d92e67c1652b831fb75",
            "cf790d7e965f90710e45c4f637352d1349c4fa420c9c3cb8e3bab4c86b38755c",
            "03f44a09ac140628293a36e4ac6d23a719058b9956cfb07f5db7923e527e187f",
        ),
        "83d288ca5986a2e52824f6c7fff3ff5e179920f283a4e41db8d746e3cec5edd0",
    ),
    "tox21": PublishedSet(
        (
            "NR-AR",
            "NR-AR-LBD",
            "NR-AhR",
            "NR-Aromatase",
            "NR-ER",
            "NR-ER-LBD",
            "NR-PPAR-gamma",
            "SR-ARE",
            "SR-ATAD5",
            "SR-HSE",
            "SR-MMP",
            "SR-p53",
        ),
        _parts(
            "9f5c366c2d80a6982fd95bdb37f41631c43a158b7d165e201b74ce8fe68c0a03",
            "5d1e23f3b582e66fdc74c7b89757bd832208f7183c3c5fcbabf6d45e321ffed7",
            "06e9af48940e5eba55ad20229ba3d0f2c1c5110007aa16790cc86df9b0e5de14",
        ),
        "d0ab51cc969f62476e45f720f1311aea8915f95913204dd380b90f7b0eb3738b",
    ),
}
