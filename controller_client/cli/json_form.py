"""The JSON form of what the client knows: one object a line.

Enums are their values and times RFC 3339 (``modify_time_ns`` becomes ``modify_time``). A path is text; one that is not
valid UTF-8 has U+FFFD in place of its invalid bytes, and beside it ``<key>_base64`` with the raw bytes.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
from typing import TYPE_CHECKING

from controller_client.times import rfc3339

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
_TIME_SUFFIX = "_ns"


def to_line(**fields: object) -> str:
    """Returns one line of NDJSON without its newline; dataclasses, enums, bytes and tuples may be inside."""
    return json.dumps(_object(fields), ensure_ascii=False, separators=(",", ":"))


def fields_of(value: DataclassInstance) -> dict[str, object]:
    """Returns the fields of a dataclass by name, as they are."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _object(fields: dict[str, object]) -> dict[str, Json]:
    made: dict[str, Json] = {}
    for key, value in fields.items():
        if key.endswith(_TIME_SUFFIX) and isinstance(value, int):
            made[key.removesuffix(_TIME_SUFFIX)] = rfc3339(value)
        elif key.endswith(_TIME_SUFFIX) and value is None:
            made[key.removesuffix(_TIME_SUFFIX)] = None
        else:
            made[key] = _value(value)
            raw = _raw(value)
            if raw is not None:
                made[f"{key}_base64"] = raw
    return made


def _value(value: object) -> Json:
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, enum.Enum):
        return _value(value.value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (tuple, list)):
        return [_value(item) for item in value]
    if isinstance(value, dict):
        return _object(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _object(fields_of(value))
    raise TypeError(f"no JSON form for {type(value).__name__}")


def _raw(value: object) -> Json:
    """Returns base64 of a path that text cannot hold, a list of them if any of several is one, else ``None``."""
    if isinstance(value, bytes) and not _is_text(value):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple) and any(isinstance(item, bytes) and not _is_text(item) for item in value):
        return [base64.b64encode(item).decode() for item in value]
    return None


def _is_text(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True
