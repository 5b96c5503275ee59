"""YAML of sheets and studies: plain values only, and no more of them than were written down."""

from typing import Any

import yaml

DEEPEST = 20
"""Lists and tables in one another that are read."""


def read_yaml(text: str) -> Any:
    """Return the values of a YAML text: no objects, and no aliases, by which a kilobyte of text can name a gigabyte of values.

    Raises:
        ValueError: when it is not YAML, holds an alias, or nests too deeply.
    """
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"line {line}: an alias (*{event.anchor}) is not read; write it out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError(f"line {line}: values in values, more than {DEEPEST} deep")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
