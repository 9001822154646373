"""What can go wrong, as a small tree; `code` is the word that the service and the command line use.

GigastoreError
├── InvalidError        the request makes no sense (also a ValueError)
├── NotFoundError       there is nothing of that name (also a LookupError)
│   └── GoneError       it was dropped
├── ConflictError       something else is there already, or came first
│   └── MissingRanksError   ranks of a save did not deliver in time (also a TimeoutError)
├── IntegrityError      stored or sent bytes are not those that were promised; they were not handed out
├── AuthError           the token or the credentials do not allow it (also a PermissionError)
├── UnavailableError    the store did not answer; the same call may succeed later (also a ConnectionError)
│   └── CommitStateUnknownError   nor is it known whether a commit took effect; the same call finds out
└── StoreWriteError     the store is full or takes no writes (also an OSError)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

__all__ = [
    "AuthError",
    "CommitStateUnknownError",
    "ConflictError",
    "GigastoreError",
    "GoneError",
    "IntegrityError",
    "InvalidError",
    "MissingRanksError",
    "NotFoundError",
    "StoreWriteError",
    "UnavailableError",
    "meant",
]

#: Names that an error has of those that there are.
_KNOWN = 100
#: Names that the asked one is compared with: a tenth of a second, for an error that is often caught.
_COMPARED = 2000
_QUOTED = re.compile(r"""(["'])((?:\\.|(?!\1).)*)\1""")


class GigastoreError(Exception):
    """Anything that Gigastore reports.

    `code` is one of the service's fault codes, such as "not_found". `object`, `expected` and `actual` are there where
    the fault is about stored bytes, else `None`; `hint` where there is something to do. `known` has names that there
    are, at most a hundred, where another may have been meant: those near to the first name that the message quotes make
    the hint, where there is none.
    """

    code: str = "invalid"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        object: str | None = None,
        expected: str | None = None,
        actual: str | None = None,
        hint: str | None = None,
        known: Sequence[str] = (),
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.object = object
        self.expected = expected
        self.actual = actual
        self.hint = hint
        self.known = list(known[:_KNOWN])
        self.request_id = request_id
        if known and hint is None and (asked := _QUOTED.search(message)):
            self.hint = meant(asked[2], known)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_again, (type(self), self.message, {k: v for k, v in vars(self).items() if k != "message"}))


class InvalidError(GigastoreError, ValueError):
    """The request makes no sense."""

    code = "invalid"


class NotFoundError(GigastoreError, LookupError):
    """There is nothing of that name; `known` has the names that there are."""

    code = "not_found"


class GoneError(NotFoundError):
    """It was dropped."""

    code = "gone"


class ConflictError(GigastoreError):
    """Something else is there already, or came first."""

    code = "conflict"


class MissingRanksError(ConflictError, TimeoutError):
    """Ranks of a save have not delivered their parts in time."""

    code = "missing_ranks"


class IntegrityError(GigastoreError):
    """Stored bytes are not what was committed, or not there. They were not handed out."""

    code = "integrity"


class AuthError(GigastoreError, PermissionError):
    """The credentials do not allow it."""

    code = "denied"


class UnavailableError(GigastoreError, ConnectionError):
    """The store did not answer; the same call may succeed later."""

    code = "unavailable"


class CommitStateUnknownError(UnavailableError):
    """It is not known whether a commit took effect; the same call finds out."""

    code = "commit_state_unknown"


class StoreWriteError(GigastoreError, OSError):
    """The store has no room left, or takes no writes."""

    code = "store_full"


_BY_CODE: dict[str, type[GigastoreError]] = {
    "invalid": InvalidError,
    "not_found": NotFoundError,
    "gone": GoneError,
    "conflict": ConflictError,
    "missing_ranks": MissingRanksError,
    "in_progress": UnavailableError,
    "integrity": IntegrityError,
    "lost": IntegrityError,
    "bad_upload": IntegrityError,
    "unavailable": UnavailableError,
    "commit_state_unknown": CommitStateUnknownError,
    "store_full": StoreWriteError,
    "read_only": StoreWriteError,
    "denied": AuthError,
    "newer_format": InvalidError,
}


def meant(asked: str, known: Sequence[str]) -> str | None:
    """Returns the question whether one of the names near to `asked` was meant; nothing where none is near."""
    folded = [name.casefold() for name in known[:_COMPARED]]
    near = dict.fromkeys(difflib.get_close_matches(asked.casefold(), folded))
    # Names that differ in case only are several.
    found = [name for one in near for name, other in zip(known, folded, strict=False) if other == one and name != asked]
    return f"did you mean {' or '.join(found[:3])}?" if found else None


def of_fault(
    code: str,
    message: str,
    object: str | None,
    expected: str | None,
    actual: str | None,
    hint: str | None,
    known: Sequence[str],
    request_id: str | None,
) -> GigastoreError:
    """Makes the exception of a fault: what the native part raises."""
    kind = _BY_CODE.get(code, GigastoreError)
    return kind(
        message,
        code=code,
        object=object,
        expected=expected,
        actual=actual,
        hint=hint,
        known=known,
        request_id=request_id,
    )


def _again(kind: type[GigastoreError], message: str, fields: dict[str, object]) -> GigastoreError:
    """Makes an exception again that came from another process."""
    error = kind(message)
    vars(error).update(fields)
    return error
