"""Tables of named columns: numbers become one float32 matrix, texts another of integer codes, one column the target.

This module has the common part of CSV and Parquet, on Arrow's record batches. Invariant: the code of a text is its
place in the order of first appearance, over all files of a source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from estafeta.data.importing.chunk import Chunk, Mask
from estafeta.data.manifest import TARGET, Column, Kind
from estafeta.errors import UsageError
from estafeta.store.tensorfile import Array

if TYPE_CHECKING:
    import pyarrow as pa

NUMBERS, CODES = "numbers", "codes"
"""Names of the two inputs that a table may have."""
MOST_CATEGORIES = 1 << 16
"""Largest number of different texts in a category column."""
Target = Literal["auto", "class", "number"]


@dataclass(frozen=True)
class Choice:
    """The use of a table's columns.

    Attributes:
        ignore: Names of columns to leave out.
        target: Whether the label is a class or a number; `auto` looks at its type.
        categories: Names of columns whose values are texts, even if they look like numbers.
    """

    label: str | None = None
    ignore: tuple[str, ...] = ()
    target: Target = "auto"
    categories: tuple[str, ...] = ()


class Encoder:
    """The encoder of a table's record batches into chunks.

    Args:
        schema: Names and types of all columns.
        choice: Use of the columns.
        where: The table's name, for messages.

    Raises:
        UsageError: A named column is missing, or a column's type is neither numbers nor text.
    """

    def __init__(self, schema: pa.Schema, choice: Choice, where: str) -> None:
        self.names: tuple[str, ...] = tuple(schema.names)
        self.label = _label(self.names, choice, where)
        kinds = {
            field.name: "text" if field.name in choice.categories else _kind(field.type, field.name, where)
            for field in schema
            if field.name not in choice.ignore
        }
        self.numbers = [n for n, kind in kinds.items() if kind == "number" and n != self.label]
        self.texts = [n for n, kind in kinds.items() if kind == "text" and n != self.label]
        if not self.numbers and not self.texts:
            raise UsageError(f"{where} has no column but the label", hint="a model needs inputs")
        self.label_kind = _label_kind(schema.field(self.label).type, kinds[self.label], self.label, choice.target)
        self._codes: dict[str, dict[str, int]] = {name: {} for name in self.texts}
        if self.label_kind == "text":
            self._codes[self.label] = {}
        self._may_mix = {*choice.categories, *([self.label] if choice.target == "class" else [])}

    @property
    def inputs(self) -> tuple[Kind, ...]:
        """One kind for the numbers, one for the codes, where there are any."""
        kinds = []
        for name, dtype, columns in ((NUMBERS, "F32", self.numbers), (CODES, "I64", self.texts)):
            if columns:
                named = tuple(Column(name=column) for column in columns)
                kinds.append(Kind(name=name, dtype=dtype, shape=(len(columns),), columns=named))
        return tuple(kinds)

    @property
    def target(self) -> Kind:
        """The label."""
        dtype = "F32" if self.label_kind == "number" else "I64"
        return Kind(name=TARGET, dtype=dtype, columns=(Column(name=self.label),))

    @property
    def categories(self) -> dict[str, tuple[str, ...]]:
        """Texts by column; the place of a text is its code."""
        return {name: tuple(codes) for name, codes in self._codes.items()}

    def chunk(self, batch: pa.RecordBatch, where: str, first: int) -> Chunk:
        """The rows of a record batch that has the columns of the schema.

        Raises:
            UsageError: A column has too many different texts, or mixes numbers with other texts.
        """
        parts: dict[str, Array] = {}
        gaps: dict[str, Mask] = {}
        if self.numbers:
            parts[NUMBERS] = np.empty((batch.num_rows, len(self.numbers)), np.float32)
            for index, name in enumerate(self.numbers):
                parts[NUMBERS][:, index] = _floats(batch.column(name))
        if self.texts:
            parts[CODES] = np.empty((batch.num_rows, len(self.texts)), np.int64)
            for index, name in enumerate(self.texts):
                parts[CODES][:, index] = self._encode(name, column := batch.column(name), where, first)
                if column.null_count:
                    gaps[name] = _absent(column)
        label = batch.column(self.label)
        parts[TARGET] = self._target(label, where, first)
        return Chunk(parts, where, first, gaps, _absent(label) if label.null_count else None)

    def _target(self, column: pa.Array, where: str, first: int) -> Array:
        if self.label_kind == "text":
            return self._encode(self.label, column, where, first)
        if self.label_kind == "number":
            return np.ascontiguousarray(_floats(column))
        import pyarrow as pa

        whole = column.cast(pa.int64())
        return np.array(whole.fill_null(0) if whole.null_count else whole, np.int64)

    def _encode(self, name: str, column: pa.Array, where: str, first: int) -> Array:
        """Codes of the texts of a column; a missing one has the code of the empty text."""
        column = _dictionary(column)
        if column.null_count:
            column = column.cast(column.dictionary.type).fill_null("").dictionary_encode()
        codes, texts = self._codes[name], column.dictionary.to_pylist()
        if name not in self._may_mix:
            present = next(filter(None, codes), next(filter(None, texts), ""))
            odd = [i for i, t in enumerate(texts) if t and t not in codes and _is_number(t) != _is_number(present)]
            if odd:
                row = first + int(np.flatnonzero(np.asarray(column.indices) == odd[0])[0])
                raise _mixed(name, texts[odd[0]], f"{where}, row {row}")
        mapping = [codes.setdefault(text, len(codes)) for text in texts]
        if len(codes) > MOST_CATEGORIES:
            raise UsageError(
                f"{where}: column {name!r} has more than {MOST_CATEGORIES:,} different texts",
                hint=f"--ignore {name} leaves it out",
            )
        return np.array(mapping, np.int64)[np.asarray(column.indices)] if mapping else np.empty(0, np.int64)


class Encoded:
    """The part of a `Source` that follows from its encoder."""

    _encoder: Encoder

    @property
    def inputs(self) -> tuple[Kind, ...]:
        """See `Source.inputs`."""
        return self._encoder.inputs

    @property
    def target(self) -> Kind:
        """See `Source.target`."""
        return self._encoder.target

    @property
    def categories(self) -> dict[str, tuple[str, ...]]:
        """See `Source.categories`."""
        return self._encoder.categories


def _listing(names: Sequence[str]) -> str:
    """The columns, for a hint; with another tip if they look as if something else is wrong."""
    shown = [name if name and name == name.strip() else repr(name) for name in names[:50]]
    listing = ", ".join(shown) + (" …" if len(names) > 50 else "")
    if between := next((sign for sign in ";\t|" if len(names) == 1 and sign in names[0]), ""):
        return f"{listing}; --delimiter {between!r} makes columns of it"
    if any(map(_is_number, names)):
        return f"{listing}; text needs a first line with the names of the columns"
    return listing


def _label(names: Sequence[str], choice: Choice, where: str) -> str:
    listing = _listing(names)
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{where} has two columns named {twice[0]!r}", hint="give each column a name of its own")
    for name in choice.ignore:
        if name not in names:
            raise UsageError(f"{where} has no column {name!r} to ignore", hint=f"its columns are {listing}")
    for name in choice.categories:
        if name not in names:
            raise UsageError(f"{where} has no column {name!r} to take as texts", hint=f"its columns are {listing}")
    if choice.label is None:
        raise UsageError(
            f"{where} has several columns, and none is named as the label", hint=f"--label COLUMN, one of {listing}"
        )
    if choice.label not in names or choice.label in choice.ignore:
        raise UsageError(f"{where} has no column {choice.label!r} to learn", hint=f"its columns are {listing}")
    return choice.label


def _kind(type_: pa.DataType, name: str, where: str) -> Literal["number", "text"]:
    import pyarrow as pa

    types = pa.types
    if any(
        test(type_) for test in (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    ):
        return "number"
    value = type_.value_type if types.is_dictionary(type_) else type_
    if types.is_string(value) or types.is_large_string(value) or types.is_string_view(value):
        return "text"
    if types.is_binary(value) or types.is_large_binary(value):
        raise UsageError(
            f"Column {name!r} of {where} holds bytes that are not text in UTF-8",
            hint=f"convert the file to UTF-8; --ignore {name} leaves the column out",
        )
    raise UsageError(
        f"Column {name!r} of {where} holds {type_}, which is neither numbers nor text",
        hint=f"--ignore {name} leaves it out",
    )


def _label_kind(
    type_: pa.DataType, kind: Literal["number", "text"], name: str, target: Target
) -> Literal["class", "number", "text"]:
    import pyarrow as pa

    if kind == "text":
        if target == "number":
            raise UsageError(f"The label {name!r} is text, not a number", hint="leave out --target number")
        return "text"
    whole = pa.types.is_integer(type_) or pa.types.is_boolean(type_)
    if target == "class" and not whole:
        raise UsageError(
            f"The label {name!r} is {type_}, not a class",
            hint=f"leave out --target class; --category {name} takes its values as names",
        )
    return "class" if whole and target != "number" else "number"


def _dictionary(column: pa.Array) -> pa.Array:
    """A column of texts, or of values that count as texts, as a dictionary that has each text once."""
    import pyarrow as pa

    if hasattr(column, "dictionary"):
        return column
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return (column if is_text else column.cast(pa.string())).dictionary_encode()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _mixed(name: str, text: str, place: str) -> UsageError:
    is_, are = ("a number", "texts") if _is_number(text) else ("text", "numbers")
    return UsageError(
        f"{place}, column {name}: {text!r} is {is_}, others before it are {are}",
        hint=f"correct the value, or --category {name} takes them all as texts",
    )


def _floats(column: pa.Array) -> Any:
    """float32[n], NaN where there is no value."""
    import pyarrow as pa

    if column.type != pa.float32():
        column = column.cast(pa.float32(), safe=False)
    return column.to_numpy(zero_copy_only=False)


def _absent(column: pa.Array) -> Mask:
    return np.asarray(column.is_null())
