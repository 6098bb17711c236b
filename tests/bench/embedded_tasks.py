"""The labelled sets that come inside packages, as folders that `embed_pretrained` reads; none of the six is in them.

    python -m tests.bench.embedded_tasks OUT

writes OUT/solubility and OUT/freesolv, each train.csv, valid.csv and test.csv; one training molecule in five, by a
hash of its id, becomes a validation molecule, so that settings can be chosen without reading a test molecule.
"""

import csv
import sys
from hashlib import blake2b
from pathlib import Path

from dynfusion.encoders.embedded_data import load

VALID_SHARE = 0.2


def main(out: str) -> None:
    for name, task in load().tasks.items():
        parts: dict[str, list[tuple[str, str, float]]] = {"train": [], "valid": [], "test": []}
        for identifier, smiles, label, split in zip(task.ids, task.smiles, task.labels, task.split, strict=True):
            draw = int.from_bytes(blake2b(identifier.encode(), digest_size=4).digest()) / 2**32
            part = "valid" if split == "train" and draw < VALID_SHARE else split
            parts[part].append((identifier, smiles, label))
        for part, rows in parts.items():
            path = Path(out, name, f"{part}.csv")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["name", "smiles", task.label_name])
                writer.writerows(rows)
            print(f"{path}: {len(rows)} molecules")


if __name__ == "__main__":
    main(*sys.argv[1:])
