"""How a setting is declared, checked, and resolved: defaults < file < flags."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import numbers
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from gencli.errors import ConfigError, MachineError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REQUIRED = dataclasses.MISSING
_LARGEST_CONFIG = 1 << 20


@dataclass(frozen=True)
class Knob:
    """What is known of a knob besides its name, type and default."""

    help: str
    flags: tuple[str, ...] = ()  # short or further names
    argument: bool = False  # given by its place, not by a flag
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    metavar: str = ""
    panel: str = ""
    environment: str = ""
    duration: bool = False


def knob(default: object, help: str, *flags: str, **more: Any) -> Any:  # noqa: A002
    """Declare a knob as a dataclass field."""
    if default is REQUIRED:
        return field(metadata={"knob": Knob(help, flags, **more)})
    return field(default=default, metadata={"knob": Knob(help, flags, **more)})


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command understands."""

    config: Path | None = knob(
        None, "Read settings from a TOML file; flags override it.", "-c", metavar="FILE"
    )
    json: bool = knob(False, "One JSON object a line on stdout.")
    quiet: bool = knob(False, "Nothing on stderr but errors.", "-q")


Settings = TypeVar("Settings", bound=Common)
Chosen = TypeVar("Chosen")


def knobs_of(settings: type[object]) -> dict[str, tuple[type, Knob, object]]:
    """Return each knob's base type, its description, and its default (REQUIRED if required)."""
    hints = get_type_hints(settings)
    return {
        f.name: (base_type(hints[f.name]), f.metadata["knob"], f.default)
        for f in dataclasses.fields(settings)  # type: ignore[arg-type]
    }


def base_type(hint: Any) -> type:
    """Return the type inside `X | None`; tuples of strings stay tuple."""
    inner = [t for t in get_args(hint) if t is not type(None)]
    if type(None) in get_args(hint):
        return inner[0]  # type: ignore[no-any-return]
    return tuple if inner else hint


def flag_of(name: str) -> str:
    """Return the flag of the knob called `name`."""
    return "--" + name.replace("_", "-")


def resolve(
    settings: type[Settings], given: Mapping[str, object], earlier: Mapping[str, object] | None = None
) -> Settings:
    """Return the settings that flags (`given`, without those not typed) and the config file make.

    `earlier` are the settings of a run that is resumed: they stand in for the defaults.
    Raises UsageError for a value out of range, ConfigError for a file that can't be used.
    """
    known = knobs_of(settings)
    path = given.get("config")
    from_file = _read_config(Path(str(path)), known) if path else {}
    before = {name: _typed(value, *known[name]) for name, value in (earlier or {}).items() if name in known}
    values = {**before, **from_file, **given}
    for name, value in values.items():
        kind, description, _ = known[name]
        _check(name if name in given else f"{path}: {name}", value, kind, description)
    missing = [name for name, (_, _, default) in known.items() if default is REQUIRED and name not in values]
    if missing:
        _, description, _ = known[missing[0]]
        short = f"{description.flags[0]}/" if description.flags else ""
        raise UsageError(
            f"{short}{flag_of(missing[0])} is needed: {description.help[0].lower()}{description.help[1:]}"
        )
    return settings(**values)  # type: ignore[arg-type]


def settings_of(settings: type[Chosen], given: Mapping[str, object]) -> Chosen:
    """Return the settings that a Python program gives by name. A mapping stands for a list of NAME=VALUE,
    or for a text of JSON.

    Raises UsageError for a name that there isn't and a value of another type or out of range.
    """
    known = knobs_of(settings)
    values: dict[str, object] = {}
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"there is no option {name!r}{nearest(name, list(known))}")
        kind, description, default = known[name]
        values[name] = default if value is None else _converted(name, value, kind)
        _check(f"option: {name}", values[name], kind, description)
    return settings(**values)


def _converted(name: str, value: object, kind: type) -> object:
    """Return a value of Python in the type of its knob. Raises UsageError if it can't be meant."""
    if kind is tuple and isinstance(value, Mapping):
        return tuple(f"{key}={number}" for key, number in value.items())
    if kind is tuple and isinstance(value, str):
        return (value,)
    if kind is str and isinstance(value, Mapping):
        return json.dumps(value)
    numeric = {int: numbers.Integral, float: numbers.Real, tuple: Iterable}.get(kind, kind)
    parts = tuple(value) if kind is tuple and isinstance(value, Iterable) else ()
    if (
        not isinstance(value, numeric)
        or isinstance(value, bool)
        or not all(isinstance(p, str) for p in parts)
    ):
        raise UsageError(f"{name} should be {_type_word(kind)}, not {value!r}")
    return parts if kind is tuple else kind(value)


def seconds_of(text: str) -> float:
    """Return the seconds that a duration such as 90, 90s, 10m or 1h30m spells. Raises UsageError."""
    match = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip().lower()
    )
    if match is None or not any(match.groups()):
        raise UsageError(f"{text!r} is no duration", hint="write it like 90s, 10m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if not 1 <= total <= 366 * 86_400:
        raise UsageError(f"a run of {text} is not possible", hint="give between one second and a year")
    return total


def nearest(name: str, names: list[str]) -> str:
    """Return ', did you mean X?' for the most similar of `names`, or nothing."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f", did you mean {close[0]}?" if close else ""


def _toml_table(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds. Raises ConfigError, MachineError if it may not be read."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigError("the configuration is not a regular file", where=str(path))
        if path.stat().st_size > _LARGEST_CONFIG:
            raise ConfigError("this is too large for a configuration (over 1 MB)", where=str(path))
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except PermissionError as error:
        raise MachineError("no permission to read the configuration", where=str(path)) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"the configuration can't be read: {reason}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the configuration can't be read: {error}", where=str(path)) from error


def _read_config(path: Path, known: Mapping[str, tuple[type, Knob, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in _toml_table(path).items():
        name = key.replace("-", "_")
        if name not in known or name == "config":
            raise ConfigError(f"unknown key {key!r}{nearest(name, list(known))}", where=str(path))
        kind = known[name][0]
        converted = tuple(value) if kind is tuple and isinstance(value, list) else value
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            converted = float(value) if abs(value) < 1 << 1000 else math.inf
        if kind is Path and isinstance(value, str):
            converted = Path(value)
        if isinstance(converted, tuple):
            converted = tuple(str(part) if isinstance(part, int) else part for part in converted)
            if not all(isinstance(part, str) for part in converted):
                raise ConfigError(f"{key} should be a list of texts, not {value!r}", where=str(path))
        if any("\0" in text for text in (converted if isinstance(converted, tuple) else [str(converted)])):
            raise ConfigError(f"{key} holds a NUL character", where=str(path))
        if not isinstance(converted, kind) or (kind is int and isinstance(converted, bool)):
            raise ConfigError(f"{key} should be {_type_word(kind)}, not {value!r}", where=str(path))
        values[name] = converted
    return values


def _typed(value: object, kind: type, _: Knob, default: object) -> object:
    """Return a value that was kept as JSON in the type of its knob."""
    if kind is tuple and isinstance(value, list):
        return tuple(value)
    if value is None or (default is None and value == "None"):
        return None
    return Path(str(value)) if kind is Path else value


def _type_word(kind: type) -> str:
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        tuple: "a list",
        str: "a text",
        Path: "a path",
    }
    return words[kind]


def _spelled(number: float) -> str:
    return f"{int(number):,}" if float(number).is_integer() else f"{number:g}"


def _check(name: str, value: object, kind: type, description: Knob) -> None:
    flag = flag_of(name) if ":" not in name else name
    if value is None:
        return
    if description.choices and value not in description.choices:
        raise UsageError(f"{flag} is one of {', '.join(description.choices)}, not {value!r}")
    if description.duration:
        try:
            seconds_of(str(value))
        except UsageError as error:
            raise UsageError(f"{flag}: {error.message}", hint=error.hint) from error
    if kind in (int, float) and isinstance(value, int | float):
        low = description.least if description.least is not None else -math.inf
        high = description.most if description.most is not None else math.inf
        if not low <= value <= high:
            raise UsageError(f"{flag} must be from {_spelled(low)} to {_spelled(high)}, not {value}")
