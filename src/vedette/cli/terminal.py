"""What all commands have in common: exit codes, options, tables, asking a server."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from email.message import Message
from typing import Annotated, Any, NoReturn
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import typer

from vedette.settings import load_settings

OK, FAILED, USAGE, UNREACHABLE, UNHEALTHY, RUNNING = range(6)
EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or setting, 3 server not reachable, "
    "4 server not healthy, 5 already running on this data directory."
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[
    str | None,
    typer.Option(envvar="VEDETTE_URL", help="The server to ask. [default: the host and port set]"),
]


def fail(message: str, code: int) -> NoReturn:
    print(f"vedette: {message}", file=sys.stderr)
    raise typer.Exit(code)


def print_rows(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def ask(url: str | None, path: str, method: str = "GET", body: Any = None) -> Any:
    """A server's JSON answer; ends the command with what is wrong if there is none."""
    content, _ = fetch(url, path, method, body)
    try:
        return json.loads(content)
    except ValueError:
        fail(f"what answers {path} is no Vedette server; set --url", UNREACHABLE)


def fetch(
    url: str | None, path: str, method: str = "GET", body: Any = None, seconds: float = 30.0
) -> tuple[bytes, Message]:
    """A server's answer, with its headers; ends the command with what is wrong if there is none.

    Args:
        body: is sent as JSON, unless it is None.
        seconds: to wait for it.
    """
    base = (url or load_settings({}).settings.url).rstrip("/")
    content = None if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    try:
        request = Request(base + path, content, headers, method=method)
        with urlopen(request, timeout=seconds) as answer:
            return answer.read(), answer.headers
    except HTTPError as error:
        try:
            message = json.load(error)["message"]
        except (ValueError, KeyError, TypeError):
            message = f"{base}{path} answered {error.code}; is it a Vedette server?"
        fail(message, FAILED)
    except (OSError, ValueError) as error:
        fail(
            f"no Vedette answers on {base} ({error}); start one with `vedette up`, or set --url",
            UNREACHABLE,
        )
