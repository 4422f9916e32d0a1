"""What a file may say where it has an unknown word: msgspec's message names that and its place, not the known ones."""

from __future__ import annotations

import re

import msgspec
from msgspec import inspect


def with_known_words(error: msgspec.ValidationError, kind: type) -> str:
    """Its message; where a key or a word is unknown, also those that are known there. kind: what the file was to be."""
    message = str(error)
    if not re.match("Object contains unknown field|Invalid enum value", message):
        return message
    node = inspect.type_info(kind)
    path = re.search(r"at `\$(.*)`$", message)
    for name in re.findall(r"\.(\w+)|\[", path[1] if path else ""):  # "": an element of a list
        node = _below(node, name)
    return f"{message}; known: {', '.join(_words(node))}"


def _below(node: inspect.Type, name: str) -> inspect.Type:
    match _some(node):
        case inspect.StructType(fields=fields):
            return next(field.type for field in fields if field.encode_name == name)
        case inspect.ListType(item_type=inner) | inspect.DictType(value_type=inner):
            return inner
        case other:
            return other


def _words(node: inspect.Type) -> list[str]:
    match _some(node):
        case inspect.StructType(fields=fields):
            return [field.encode_name for field in fields]
        case inspect.LiteralType(values=values):
            return [str(value) for value in values]
        case _:
            return []


def _some(node: inspect.Type) -> inspect.Type:
    """Without None, and without limits of its value."""
    match node:
        case inspect.UnionType(types=types):
            return _some(next(each for each in types if not isinstance(each, inspect.NoneType)))
        case inspect.Metadata(type=inner):
            return _some(inner)
        case _:
            return node
