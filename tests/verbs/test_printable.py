from pathlib import Path

import numpy as np
import pytest

from dynfusion.printable import printable
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.verbs.inspect import inspect
from dynfusion.verbs.sample import sample


def test_what_a_file_says_cannot_begin_a_line_or_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = ["é\nrow 9: id forged", "\x1b[31mred", "日本", "\u202eturned", "C/C=C\\C"]
    (tmp_path / "s").mkdir()
    np.save(tmp_path / "s" / "embeddings.npy", np.ones((5, 2), np.float16))
    np.save(tmp_path / "s" / "ids.npy", np.array(ids))
    (tmp_path / "s" / "encoder.txt").write_text("a\x1b[2Jb")
    pack(PackInputs({"m": tmp_path / "s"}), out=tmp_path / "o")
    found = sample(str(tmp_path / "o"))
    assert {row["known"]["id"] for row in found} == set(ids)
    inspect(str(tmp_path / "o"))
    printed = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in printed)
    sampled = printed.splitlines()[:10]
    assert {line.partition("id ")[2] for line in sampled if line.startswith("row ")} == {
        printable(name) for name in ids
    }
    assert printable(ids[0]) == r"é\nrow 9: id forged"
    assert [printable(name) for name in ids[1:]] == [r"\x1b[31mred", "日本", r"\u202eturned", "C/C=C\\C"]
