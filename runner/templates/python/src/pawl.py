"""The helpers for steps in Python: failures, findings, the log, and files in granted directories.

`open` works too: the directory that the plan grants as `app` is `/app`. Import other parts of the contract directly, such as
`from wit_world.imports import http`.
"""

import errno
import json
import os
import traceback
from contextlib import contextmanager

from componentize_py_types import Err
from wit_world.imports import log as host
from wit_world.imports import types
from wit_world.imports.types import Change
from wit_world.imports.types import Finding_Absent as Absent
from wit_world.imports.types import Finding_Drifted as Drifted
from wit_world.imports.types import Finding_Held as Held
from wit_world.imports.types import Finding_Unknown as Unknown

__all__ = ["Absent", "Change", "Drifted", "Failure", "Held", "Unknown", "log", "receipt"]


# WASI's error number for a path outside a granted directory; Python has no name for it.
NOT_CAPABLE = 76


class Failure(Exception):
    """The reason why a call failed. docs/steps.md lists the kinds; the plan's `retry` applies to `transient`."""

    def __init__(self, kind, message, hint=None, retryable=None, details=None):
        super().__init__(message)
        self.kind, self.message, self.hint, self.details = kind, message, hint, details or {}
        self.retryable = kind == "transient" if retryable is None else retryable


def as_failure(error):
    """Returns the failure of the contract. An exception that is not a Failure is logged with its traceback."""
    # An exception from an import of the contract is already a failure.
    if isinstance(error, Err) and isinstance(error.value, types.Failure):
        return error
    if not isinstance(error, Failure):
        log("error", "".join(traceback.format_exception(error)))
        message = f"{type(error).__name__}: {error}"
        error = Failure("permanent", message, hint="read the traceback with `runner logs`, and fix the cause")
    return Err(types.Failure(error.kind, error.message, error.hint, error.retryable, json.dumps(error.details)))


def log(level, message, **fields):
    """Writes a log message; `level` is `error`, `warn`, `info` or `debug`."""
    host.write(level, message, json.dumps(fields))


def receipt(outputs=None, notes=None):
    return types.Receipt(json.dumps(outputs or {}), json.dumps(notes or {}))


# A path is `<granted directory>/<path>`, such as `app/VERSION`. A function that writes returns when the data is on the disk.


def exists(path):
    with file_operation("inspect", path) as at:
        return os.path.exists(at)


def read_text(path):
    with file_operation("read", path) as at, open(at, encoding="utf-8", newline="") as file:
        return file.read()


def write_atomic(path, text):
    """Writes a file atomically: readers see the old or the new content, never a part."""
    with file_operation("write", path) as at:
        with open(at + ".new", "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(at + ".new", at)
        sync_folder(at)


def remove(path):
    with file_operation("remove", path) as at:
        if os.path.lexists(at):
            os.remove(at)
            sync_folder(at)


def sync_folder(at):
    folder = os.open(os.path.dirname(at), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def file_operation(verb, path):
    """Resolves the path in its grant, and turns an OSError into a Failure for the operator."""
    at = find(path)
    try:
        yield at
    except FileNotFoundError:
        raise Failure("not-found", f"cannot {verb} `{path}`: not found", details={"file": path}) from None
    except OSError as error:
        denied = isinstance(error, PermissionError) or error.errno in (errno.EROFS, NOT_CAPABLE)
        kind, why = ("denied", "not permitted") if denied else ("permanent", error.strerror)
        raise Failure(kind, f"cannot {verb} `{path}`: {why}", details={"file": path}) from None


def find(path):
    name, *names = path.removeprefix("/").split("/")
    if not name or ".." in names:
        hint = "write `<granted directory>/<path>` without `..`"
        raise Failure("invalid-config", f"`{path}` is not a path inside a granted directory", hint)
    if not os.path.isdir("/" + name):
        hint = f"add `{name}: <folder>` to the step's `grants: {{ dirs: … }}`"
        raise Failure("denied", f"the directory `{name}` is not granted to this step", hint)
    return "/" + "/".join([name, *(part for part in names if part not in ("", "."))])
