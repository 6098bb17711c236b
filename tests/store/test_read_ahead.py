"""Nothing is read of a CSV file behind the back of whoever has finished with it."""

import io
import threading
import time

import pyarrow as pa

from dynfusion.store.read_ahead import csv_reader


class Slow(io.BytesIO):
    """Counts what is read of it, from whichever thread."""

    mode, name = "rb", "x.csv"

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.reads, self.lock = 0, threading.Lock()

    def read(self, size: int | None = -1) -> bytes:
        with self.lock:
            self.reads += 1
        time.sleep(0.02)
        return super().read(size)


def test_nothing_is_read_ahead_behind_the_with_even_while_the_reader_lives() -> None:
    file = Slow(b"id,x\n" + b"1,2\n" * (1 << 22))
    with csv_reader(file, pa.csv.ParseOptions()) as reader:
        assert reader.schema.names == ["id", "x"]
    before = file.reads
    time.sleep(0.2)
    assert file.reads == before
