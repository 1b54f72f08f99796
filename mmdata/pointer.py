"""Errors as commands print them: the message, and where to read on about its cause.

`docs/troubleshooting.md` has an entry for each symptom that a line cannot explain; its anchors are the reasons of
errors. The page itself is looked at, so that no command points to an entry that is not there.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path

from mmdata.errors import DataError, RunError, SpecError

PAGE = "docs/troubleshooting.md"
SYSTEM = {
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.EROFS: "permission_denied",
    errno.ENOENT: "no_such_file",
    errno.ENOTDIR: "no_such_file",
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EMFILE: "too_many_open_files",
    errno.ENFILE: "too_many_open_files",
    errno.EIO: "disk_failing",
}
"""Reasons of what the operating system refuses."""
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_NAMED = re.compile(r'<a (?:id|name)="([\w-]+)"')


def told(error: BaseException) -> str:
    """What a command says of an error. A message of one line stays one line.

    >>> told(DataError("no_such_reason", "nobody has written about it"))
    'no_such_reason: nobody has written about it'
    """
    message = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        message = f"{error.filename}: {error.strerror}"  # without the number
    # Details hold what data say: no escape sequence of theirs reaches a terminal.
    message = "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in message)
    entry = entry_of(reason_of(error))
    if not entry:
        return message
    return f"{message}\n  more: {entry}" if "\n" in message else f"{message} (more: {entry})"


ENDINGS = (SpecError, RunError, DataError, OSError, KeyboardInterrupt)
"""What ends a command without a traceback."""


def failed(name: str, error: BaseException, *, again: str = "") -> int:
    """Say on the error stream what ended the command `name`, and of Ctrl-C what to do `again`; answers its exit code: 2
    for a spec or an argument that is wrong, 130 for Ctrl-C, else 1."""
    if isinstance(error, KeyboardInterrupt):
        print(f"\n{name}: stopped{again and '; '}{again}", file=sys.stderr)
        return 130
    print(f"{name}: {told(error)}", file=sys.stderr)
    return 2 if isinstance(error, SpecError) else 1


def reason_of(error: BaseException) -> str:
    """The slug of an error: its own, or that of the operating system's error which it comes from.

    >>> reason_of(PermissionError(13, "Permission denied")), reason_of(SpecError("a mistake"))
    ('permission_denied', 'spec_mistake')
    """
    reason = error.reason if isinstance(error, DataError | SpecError | RunError) else ""
    if reason in ("", "spec_mistake", "run_failed"):
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in SYSTEM:
                return SYSTEM[cause.errno]
            cause = cause.__cause__
    return reason


def entry_of(reason: str, page: Path | None = None) -> str:
    """Where the entry on a reason is, as a path from here and an anchor; empty where there is none."""
    page = page or find()
    if not reason or page is None or reason not in anchors(page.read_text(encoding="utf-8")):
        return ""
    shown = os.path.relpath(page)
    return f"{page if shown.startswith('..') else shown}#{reason}"


def find() -> Path | None:
    """The page: inside the package when installed, beside it in a checkout; None where it was left out."""
    package = Path(__file__).parent
    return next((path for path in (package / PAGE, package.parent / PAGE) if path.is_file()), None)


def anchors(text: str) -> set[str]:
    """The anchors of a Markdown page, as GitHub makes them of headings, and those that are written into it.

    >>> sorted(anchors('# Trouble\\n## No sample fits: `no_packs`\\n<a id="disk_full"></a>'))
    ['disk_full', 'no-sample-fits-no_packs', 'trouble']
    """
    text = _FENCED.sub("", text)
    made = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text))
    return {*made, *_NAMED.findall(text)}
