"""Nothing is read of a CSV file behind the back of whoever has finished with it."""

import io
import threading
import time

import pytest

from dynfusion.store.files import Files
from dynfusion.store.table_files import open_table

ROWS = b"1,2\n" * (1 << 22)


class Slow(io.BytesIO):
    """Counts what is read of it, from whichever thread, also once it was closed."""

    mode, name = "rb", "x.csv"

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.reads, self.lock = 0, threading.Lock()

    def read(self, size: int | None = -1) -> bytes:
        with self.lock:
            self.reads += 1
        time.sleep(0.02)
        return b"" if self.closed else super().read(size)


@pytest.mark.parametrize("content", [b"id,x\n" + ROWS, b"id,x\n" + ROWS[: 1 << 21] + b"3\n" + ROWS])
def test_once_a_table_is_opened_or_refused_nobody_reads_it(content: bytes) -> None:
    file = Slow(content)
    files = Files(lambda uri: file, lambda uri: [uri], lambda uri: "", lambda uri: None)
    _, pieces = open_table("table", "x.csv", files, texts=["id"], numbers=float)
    before = file.reads
    time.sleep(0.1)
    assert file.reads == before < 12

    if content.count(b"3\n"):
        file = Slow(content)
        with pytest.raises(ValueError, match=r"x\.csv is not readable as CSV"):
            list(pieces[0].read(files, 1 << 10))
        before = file.reads
        time.sleep(0.1)
        assert file.reads == before
