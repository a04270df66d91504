"""Documents from Parquet files and Hugging Face data sets. Both packages are optional."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_tl.corpus.chunks import CHUNK_BYTES, Chunk, Document
from lightning_tl.errors import UserError, nearest, one_line, shortened

_ROWS = 1024  # of a Parquet file, in memory at once


@dataclass(frozen=True)
class RowGroup(Chunk):
    """A row group of a Parquet file.

    Attributes:
        path: The file.
        group: Number of the row group.
        key: The column of the text.
    """

    path: Path
    group: int
    key: str

    @property
    def reading(self) -> dict[str, str]:
        """The column of the text."""
        return {"key": self.key}

    def documents(self) -> Iterator[Document]:
        """Yield the texts of the column."""
        row = 0
        with _parquet(self.path) as file:
            for batch in file.iter_batches(batch_size=_ROWS, row_groups=[self.group], columns=[self.key]):
                for text in batch.column(0).to_pylist():
                    where = f"{self.path}, row {row} of group {self.group}"
                    yield Document(_checked(text, self.key, where), where)
                    row += 1


def parquet_chunks(source: str, path: Path, key: str) -> list[Chunk]:
    """Return the chunks of a Parquet file: its row groups.

    Raises:
        UserError: pyarrow is not installed, the file is damaged, or there is no such column.
    """
    status = path.stat()
    with _parquet(path) as file:
        columns = list(file.schema_arrow.names)
        if key not in columns:
            raise UserError(f"{path}: no column '{key}', which --key names{nearest(key, columns)}")
        metadata = file.metadata
        sizes = [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]
    stamp = [str(path.absolute()), status.st_size, status.st_mtime_ns, key]
    return [
        RowGroup(source, json.dumps(["parquet", *stamp, number]), int(size), path, number, key)
        for number, size in enumerate(sizes)
    ]


def _parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(f"{path}: to read Parquet files install pyarrow: pip install pyarrow") from None
    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # pyarrow's own classes, and OSError
        raise UserError(
            f"{path}: cannot be read as Parquet ({shortened(one_line(error))}); download or write it again"
        ) from None


@dataclass(frozen=True)
class Rows(Chunk):
    """Rows of a Hugging Face data set.

    Attributes:
        dataset: The data set.
        begin: The first row.
        end: The row after the last one.
        key: The column of the text.
    """

    dataset: Any
    begin: int
    end: int
    key: str

    @property
    def reading(self) -> dict[str, str]:
        """The column of the text."""
        return {"key": self.key}

    def documents(self) -> Iterator[Document]:
        """Yield the texts of the column."""
        for row, text in enumerate(self.dataset[self.begin : self.end][self.key], self.begin):
            where = f"{self.source}, row {row}"
            yield Document(_checked(text, self.key, where), where)


def dataset_chunks(source: str, key: str) -> list[Chunk]:
    """Return the chunks of a Hugging Face data set.

    Args:
        source: ``hf:NAME``, ``hf:NAME,CONFIGURATION`` or ``hf:NAME,CONFIGURATION,SPLIT`` (default: ``train``).
        key: The column of the text.

    Raises:
        UserError: ``datasets`` is not installed, there is no such data set, or no such column.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(f"{source}: to read Hugging Face data sets install datasets: pip install datasets") from None
    name, configuration, split = (*source.removeprefix("hf:").split(",", 2), "", "")[:3]
    try:
        dataset = datasets.load_dataset(name, configuration or None, split=split or "train")
    except Exception as error:  # of the hub, the network, the data set's builder
        raise UserError(
            f"{source}: cannot be loaded ({shortened(one_line(error))}); write hf:NAME,CONFIGURATION,SPLIT"
        ) from None
    if key not in dataset.column_names:
        raise UserError(f"{source}: no column '{key}', which --key names{nearest(key, dataset.column_names)}")
    count, size = len(dataset), int(dataset.data.nbytes)
    rows = max(1, count * CHUNK_BYTES // max(1, size))
    chunks: list[Chunk] = []
    for begin in range(0, count, rows):
        end = min(begin + rows, count)
        identity = json.dumps(["hf", source, dataset._fingerprint, key, begin, end])
        chunks.append(Rows(source, identity, size * (end - begin) // count, dataset, begin, end, key))
    return chunks


def _checked(text: object, key: str, where: str) -> str:
    if not isinstance(text, str):
        raise UserError(f"{where}: '{key}' is not a text but {shortened(repr(text), 40)}; choose the column by --key")
    return text
