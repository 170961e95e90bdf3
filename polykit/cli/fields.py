"""Describes the fields of options in words: type, bounds, default."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


def describe(options: type[BaseModel]) -> list[dict[str, Any]]:
    """Return name, type, bounds, default and description of every field, in order.

    >>> from pydantic import Field
    >>> class Cut(BaseModel):
    ...     rounds: int = Field(10, ge=1, description="how often")
    >>> describe(Cut)[0]["type"], describe(Cut)[0]["bounds"]
    ('int', '≥ 1')
    """
    return [
        {
            "name": name,
            "type": type_text(field.annotation),
            "bounds": bounds_text(field),
            "default": default_of(field),
            "description": field.description or "",
        }
        for name, field in options.model_fields.items()
    ]


def type_text(annotation: Any) -> str:
    """Name a type as a user would.

    >>> type_text(int | None), type_text(Literal["a", "b"]), type_text(tuple[float, ...])
    ('int | none', 'a | b', 'list of float')
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(inner[0])
    if origin in (Literal, Union, types.UnionType):
        return " | ".join(type_text(part) for part in inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "table"
    if origin in (tuple, list, set, frozenset):
        return f"list of {type_text(inner[0])}" if inner else "list"
    name = "none" if annotation in (None, type(None)) else getattr(annotation, "__name__", None)
    return name or str(annotation)


def bounds_text(field: FieldInfo) -> str:
    """Name a field's bounds.

    >>> bounds_text(FieldInfo(annotation=float, default=0.5, gt=0, le=1))
    '> 0, ≤ 1'
    """
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "multiple_of": "multiple of"}
    signs |= {"min_length": "length ≥", "max_length": "length ≤", "pattern": "like"}
    found = []
    for bound in field.metadata:
        for attribute, sign in signs.items():
            value = getattr(bound, attribute, None)
            if value is not None:
                found.append(f"{sign} {value}")
    return ", ".join(found)


def default_of(field: FieldInfo) -> Any:
    """Return a field's default; None where there is none."""
    value = field.get_default(call_default_factory=True)
    return None if value is PydanticUndefined else value
