"""Landmarks as a Parquet table, by pyarrow (extra `[parquet]`)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from tabrt.errors import TabrtError, install_extra

ROW_GROUP = 4096  # rows that are compressed together, and held until then: some 50 MB
HEADER = b"tabrt-landmarks"  # key of the header in the file's metadata
END = b"tabrt-end"  # of the closing record


def pyarrow() -> Any:
    """pyarrow with its parquet. Raises TabrtError where it is not installed."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise TabrtError(f".parquet needs one more package; {install_extra('parquet')}") from None
    return pyarrow


class ParquetRows:
    """Writes rows as a Parquet table to a file that is open, a row group at a time.

    columns: int64, int32, float, double or string by name. The file can be read once `close` has written its
    directory, and not before. All methods raise OSError as the file does.
    """

    def __init__(self, file: io.FileIO, columns: Mapping[str, str], header: str):
        arrow = pyarrow()
        types = {"int32": arrow.int32(), "int64": arrow.int64(), "float": arrow.float32(), "double": arrow.float64()}
        fields = [(name, types.get(kind, arrow.string())) for name, kind in columns.items()]
        self._schema = arrow.schema(fields, metadata={HEADER: header.encode()})
        self._rows: list[list[Any]] = []
        # pyarrow does not look at how much a write has taken.
        self._file = io.BufferedWriter(file)
        # Signs and exponents then lie side by side, where they compress.
        floats = [name for name, kind in columns.items() if kind in ("float", "double")]
        self._writer = arrow.parquet.ParquetWriter(
            self._file, self._schema, compression="zstd", use_dictionary=False, use_byte_stream_split=floats
        )

    def add(self, rows: Iterable[list[Any]]) -> None:
        """Add rows, None where a cell is empty."""
        self._rows += rows
        if len(self._rows) >= ROW_GROUP:
            self._write()

    def end(self, record: str) -> None:
        """Say that all rows are there."""
        self._writer.add_key_value_metadata({END: record.encode()})

    def close(self) -> None:
        self._write()
        self._writer.close()
        self._file.flush()

    def abandon(self) -> None:
        """Let go of a file that cannot be written."""
        self._rows = []
        with contextlib.suppress(OSError):
            self._writer.close()
        with contextlib.suppress(OSError):
            self._file.close()

    def _write(self) -> None:
        if self._rows:
            columns = zip(zip(*self._rows, strict=True), self._schema, strict=True)
            arrays = [pyarrow().array(cells, field.type) for cells, field in columns]
            self._writer.write_table(pyarrow().Table.from_arrays(arrays, schema=self._schema), ROW_GROUP)
            self._rows = []


class ParquetTable:
    """A Parquet file to be read. Raises OSError or ValueError where it is none, or was not finished."""

    def __init__(self, file: BinaryIO | str):
        self._file = pyarrow().parquet.ParquetFile(file)
        told = self._file.metadata.metadata or {}
        self.header: bytes = told.get(HEADER, b"")
        self.end: bytes = told.get(END, b"null")  # the closing record
        self.names: list[str] = self._file.schema_arrow.names

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def numbers(self, names: list[str], kind: type = np.float32) -> np.ndarray:
        """(R, names): columns of numbers, NaN where a cell is empty."""
        whole: np.ndarray = np.empty((len(self), len(names)), kind)
        row = 0
        for batch in self.batches(names, kind):
            whole[row : row + len(batch)] = batch
            row += len(batch)
        return whole

    def batches(self, names: list[str], kind: type = np.float64) -> Iterator[np.ndarray]:
        """The same, (up to ROW_GROUP, names) at a time."""
        for batch in self._file.iter_batches(ROW_GROUP, columns=names):
            rows: np.ndarray = np.empty((len(batch), len(names)), kind)
            for place, name in enumerate(names):
                rows[:, place] = batch.column(name).to_numpy(zero_copy_only=False)
            yield rows
