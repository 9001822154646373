"""What callers pass, checked before anything is done with it: what makes no sense is an InvalidError that names it.

Must never let a value through that the native part can't be called with.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import InvalidError

__all__ = [
    "counted",
    "device_of",
    "kind_of",
    "names_of",
    "numbers_of",
    "seconds",
    "secret",
    "sized",
    "text",
    "texts_by_name",
    "unless_none",
    "url_of",
    "with_article",
]

#: URLs of stores and of services.
_URLS = "file:///DIR, s3://BUCKET/PREFIX, gs://…, az://…, or http(s)://HOST:PORT of a service"
_SCHEMES = ("file", "memory", "s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "http", "https")


def with_article(name: str) -> str:
    """Returns the name of a type with its article: "an int"."""
    return f"an {name}" if name[:1].lower() in set("aeiou") else f"a {name}"


def kind_of(value: Any, *, module: bool = False) -> str:
    """Returns the name of a value's type with its article, and with its module before it where that is to be told."""
    kind = type(value)
    return with_article(f"{kind.__module__}.{kind.__qualname__}" if module else kind.__qualname__)


def text(what: str, value: Any) -> str:
    """Returns a text; refuses what is none, or can't be written as UTF-8."""
    if not isinstance(value, str):
        raise InvalidError(f"{what} is {value!r}, {kind_of(value)}: expected a str")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidError(f"{what} is {value!r}, which is no Unicode text: {error}") from None
    return value


def counted(what: str, number: Any, bits: int = 64) -> int:
    """Returns a number that counts something; refuses what does not."""
    try:
        found = operator.index(number)
    except TypeError:
        found = -1
    if not 0 <= found < 1 << bits:
        raise InvalidError(f"{what}: {number!r} is no whole number from 0 to 2^{bits} - 1")
    return found


def seconds(what: str, number: Any) -> float:
    """Returns seconds to wait."""
    try:
        # Text that has a number in it is none.
        found = -1.0 if isinstance(number, (str, bytes)) else float(number)
    except (TypeError, ValueError, OverflowError):
        found = -1.0
    if not found >= 0:
        raise InvalidError(f"{what}: {number!r} is no number of seconds from 0 on")
    return found


def sized(what: str, value: Any) -> int:
    """Returns a number of bytes, from a number or a text such as "256 MiB"."""
    if not isinstance(value, str):
        return counted(what, value)
    found = re.fullmatch(r"(\d{1,18}) *([kKMGT]?)(i?)B?", value.strip())
    if found is None:
        raise InvalidError(f"{what}: {value!r} is no number of bytes", hint="such as '256 MiB'")
    power = " kMGT".index(found[2].replace("K", "k") or " ")
    return counted(what, int(found[1]) * (1024 if found[3] else 1000) ** power)


def unless_none(what: str, value: Any) -> str | None:
    """Returns a text, or nothing where there is none."""
    return None if value is None else text(what, value)


def secret(what: str, value: Any) -> str | None:
    """Returns a secret text, or nothing where there is none. No error tells what it is."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidError(f"{what} is {kind_of(value)}: expected a str")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidError(f"{what} is no Unicode text") from None
    return value


def url_of(value: Any) -> str:
    """Returns the URL of a store; of what is none, the error says which may have been meant."""
    found = os.fsdecode(value) if isinstance(value, (bytes, os.PathLike)) else value
    # Never told: errors end in logs.
    if isinstance(found, str) and found.strip().startswith("gst_"):
        told = "the URL of a store is expected, and this looks like a token: pass it as token=..."
        raise InvalidError(told, hint=f"Store(url, token=...), where the URL is {_URLS}")
    url = text("url", found if isinstance(value, os.PathLike) else value)
    meant = _url_meant(url)
    if meant is None and not isinstance(value, os.PathLike):
        return url
    told = "the URL of a store" if "://" in url else "a URL"
    raise InvalidError(f"{url!r} is not {told}", hint=meant or "pass a str")


def _url_meant(url: str) -> str | None:
    """Returns what to write in place of a text that is no URL of a store; nothing where it has the form of one."""
    scheme, _, rest = url.strip().partition(":")
    scheme, path = scheme.lower(), rest.lstrip("/")
    if scheme in _SCHEMES and rest.startswith("//"):
        # A folder on another machine can't be opened: what stands for the host is the folder's first part.
        host = path.partition("/")[0] if scheme == "file" and not rest.startswith("///") else ""
        return None if host in ("", "localhost") else f"did you mean file:///{path}?"
    if scheme in _SCHEMES and path:
        return f"did you mean {scheme}:{'///' if scheme in ('file', 'memory') else '//'}{path}?"
    if "://" in url or url.strip().endswith(":"):
        return f"expected {_URLS}"
    if re.fullmatch(r"[\w.-]+:\d+/?", url):
        return f"did you mean http://{url}?"
    folder = f"did you mean {Path(os.path.abspath(url)).as_uri()}?"
    return folder if os.path.isabs(url) else f"{folder} URLs of stores are {_URLS}"


def names_of(what: str, values: Any) -> list[str]:
    """Returns several names. One text is not several of a letter each."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise InvalidError(f"{what} are {values!r}: expected several", hint=f"[{values!r}]")
    return [text(f"one of {what}", value) for value in values]


def numbers_of(what: str, values: Any, bits: int = 64) -> list[int]:
    """Returns several numbers that count something."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise InvalidError(f"{what}: {values!r} are no whole numbers")
    return [counted(what, value, bits) for value in values]


def texts_by_name(what: str, values: Any) -> dict[str, str]:
    """Returns texts by name, none where nothing is given."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise InvalidError(f"{what} is {kind_of(values)}, expected a mapping of text to text")
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidError(f"{what} {key!r}: {value!r} is not text by text", hint="json.dumps(value)")
    return {text(f"a key of {what}", key): text(f"{what} {key!r}", value) for key, value in values.items()}


def device_of(device: Any) -> Any:
    """Returns a device of torch; refuses one that is not here before anything is read for it."""
    import torch

    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidError(f"device={device!r}: torch has no such device here: {reason}") from error
