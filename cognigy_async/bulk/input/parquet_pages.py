"""Memory that reading a row group of Parquet takes, computed from the headers of its pages.

A few bytes of Parquet may hold gigabytes: a page of equal values, a long text that a dictionary
repeats in each row, a list of a billion zeros. Only the headers of the pages have the real sizes.
They are structs of Thrift's compact protocol, see parquet.thrift of apache/parquet-format.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

COLUMN_BUFFER = 1 << 16
"""Bytes that are buffered for each column."""
ROOM = 1 << 22
"""Bytes that rows that are read together may take."""
MOST_ROWS = 1024
"""Most rows to read together."""
LARGEST_DICTIONARY = 1 << 24
"""Bytes of a dictionary page that is read to find its longest text."""
PER_ITEM = 20
"""Bytes of an item of a list, with its levels."""
PER_OBJECT = 64
"""Bytes of a value as an object of Python, besides its content."""

# Of parquet.thrift: numbers of the fields of a page header, types of pages, and encodings.
TYPE, SIZE, COMPRESSED_SIZE, DATA_HEADER, DATA_HEADER_V2 = 1, 2, 3, 5, 8
NUMBER_OF_VALUES, ENCODING, ENCODING_V2 = 1, 2, 4
DICTIONARY_PAGE = 2
PLAIN_DICTIONARY, DELTA_BYTE_ARRAY, RLE_DICTIONARY = 2, 7, 8


@dataclass(frozen=True, slots=True)
class ReadingCost:
    """Cost of reading some columns of a row group.

    Attributes:
        memory: Bytes that reading rows may take.
        rows: Number of rows to read together.
    """

    memory: int
    rows: int


def reading_cost(file: BinaryIO, opened: Any, group: int, columns: Iterable[int]) -> ReadingCost:
    """Return the cost of reading columns of a row group.

    Args:
        opened: The same file as a `pyarrow.parquet.ParquetFile`.
        columns: Numbers of the columns without columns inside them.

    Raises:
        ValueError: The header of a page cannot be read.
    """
    memory, row, rows = 0, 1, MOST_ROWS
    row_group = opened.metadata.row_group(group)
    position = file.tell()
    for number in columns:
        column = opened.schema.column(number)
        has_texts = column.physical_type == "BYTE_ARRAY"
        chunk = row_group.column(number)
        pages = _Pages(file, chunk, has_texts)
        memory += min(COLUMN_BUFFER, chunk.total_compressed_size)
        memory += pages.largest + 2 * pages.dictionary
        # Bytes of a value. Those that come one by one from a page are counted with the page.
        value = PER_ITEM + max(column.length, pages.longest)
        if column.max_repetition_level:
            memory += pages.values * value + pages.one_by_one
            row += pages.values * value // max(1, row_group.num_rows)
        else:
            row += PER_OBJECT + value
            memory += PER_OBJECT + value
            # Rows that are no more than the values of a page lie in at most two pages.
            rows = min(rows, pages.fewest_values)
            memory += pages.largest if has_texts else 0
    file.seek(position)
    return ReadingCost(memory, max(1, min(rows, ROOM // row)))


class _Pages:
    """Sizes of the pages of a column of a row group.

    Attributes:
        largest: Bytes of the largest data page, without compression.
        dictionary: Bytes of the dictionary page.
        longest: Bytes of the longest text that a few bytes of a page may stand for.
        one_by_one: Bytes of the data pages whose texts do not stand for longer ones.
        values: Number of values, nulls included.
        fewest_values: Number of values of the shortest of these data pages, besides the last.
    """

    def __init__(self, file: BinaryIO, chunk: Any, has_texts: bool) -> None:
        self.largest = self.dictionary = self.longest = self.one_by_one = self.values = 0
        self.fewest_values = MOST_ROWS
        in_page = MOST_ROWS
        offset = min(
            filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)), default=0
        )
        end = offset + chunk.total_compressed_size
        while self.values < chunk.num_values and offset < end:
            file.seek(offset)
            header = _struct(file)
            size, compressed = header.get(SIZE), header.get(COMPRESSED_SIZE)
            if not isinstance(size, int) or not isinstance(compressed, int) or compressed < 0:
                raise ValueError("a page has no size")
            offset = file.tell() + compressed
            if header.get(TYPE) == DICTIONARY_PAGE:
                self.dictionary = size
                if has_texts:
                    self.longest = _longest_text(file.read(compressed), size, chunk.compression)
                continue
            self.largest = max(self.largest, size)
            page = header.get(DATA_HEADER) or header[DATA_HEADER_V2]
            self.values += page[NUMBER_OF_VALUES]
            encoding = page[ENCODING if DATA_HEADER in header else ENCODING_V2]
            if has_texts and encoding == DELTA_BYTE_ARRAY:
                self.longest = max(self.longest, size)
            elif has_texts and encoding not in (PLAIN_DICTIONARY, RLE_DICTIONARY):
                self.one_by_one += size
                self.fewest_values = min(self.fewest_values, in_page)
                in_page = page[NUMBER_OF_VALUES]


def _longest_text(page: bytes, size: int, compression: str) -> int:
    """Return the bytes of the longest text of a dictionary page."""
    import pyarrow as arrow

    if size > LARGEST_DICTIONARY:
        return size
    if compression != "UNCOMPRESSED":
        try:
            page = arrow.decompress(page, size, compression.lower(), asbytes=True)
        except (arrow.ArrowException, OSError, ValueError):
            # For example LZ4, which Hadoop writes in a format of its own.
            return size
    longest = offset = 0
    while offset + 4 <= len(page):
        length = int.from_bytes(page[offset : offset + 4], "little")
        longest = max(longest, length)
        offset += 4 + length
    return longest


def _struct(file: BinaryIO) -> dict[int, Any]:
    """Read a struct: numbers and structs by the number of their field, without texts."""
    fields: dict[int, Any] = {}
    number = 0
    while (head := _byte(file)) != 0:
        number = number + (head >> 4) if head >> 4 else _integer(file)
        fields[number] = _value(file, head & 15)
    return fields


def _value(file: BinaryIO, kind: int) -> Any:
    if kind in (1, 2):
        return kind == 1
    if kind == 3:
        return _byte(file)
    if kind in (4, 5, 6):
        return _integer(file)
    if kind == 7:
        return file.seek(8, 1)
    if kind == 8:
        return file.seek(_varint(file), 1)
    if kind == 12:
        return _struct(file)
    raise ValueError(f"a page header has a field of type {kind}")


def _byte(file: BinaryIO) -> int:
    byte = file.read(1)
    if not byte:
        raise ValueError("a page header is cut off")
    return byte[0]


def _varint(file: BinaryIO) -> int:
    number = shift = 0
    while True:
        byte = _byte(file)
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number
        if shift > 63:
            raise ValueError("a page header has a number that is too long")


def _integer(file: BinaryIO) -> int:
    number = _varint(file)
    return number >> 1 ^ -(number & 1)
