"""How the demo looks: a page of plain text, with a little colour on a terminal."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BOLD, DIM, GREEN = "1", "2", "32"

NAME = 14  # columns for the name of a thing
THING = 34  # columns for the thing: a DID fits
TITLE = 20  # columns for the title of a step
PLACE = 40  # columns for where it was seen
LINE = 76  # columns that a short JSON value may take


@dataclass(frozen=True, slots=True)
class Page:
    """Writes to standard output, line by line, so that it is read as it happens."""

    colour: bool

    @classmethod
    def on_stdout(cls) -> "Page":
        """Use colour on a terminal only, and there not if NO_COLOR is set (no-color.org)."""
        wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return cls(wanted and sys.stdout.isatty())

    def line(self, text: str = "", style: str | None = None) -> None:
        print(self._styled(text, style), flush=True)

    def heading(self, text: str, note: str = "") -> None:
        self.line()
        self.line(text, BOLD)
        if note:
            self.line(note, DIM)

    def pair(self, name: str, thing: str, note: str = "") -> None:
        """Write a thing by its name, with what there is to say of it."""
        padded = f"{thing:<{THING}}{self._styled(note, DIM)}" if note else thing
        self.line(f"  {name:<{NAME}}{padded}")

    def step(
        self, number: int, title: str, place: str, time: str, details: Mapping[str, str]
    ) -> None:
        """Write a step that was seen: where, when and what. A detail may have many lines."""
        self.line()
        head = self._styled(f"{number}  {title:<{TITLE}}", GREEN)
        self.line(f"  {head}{place:<{PLACE}}{time:>10}".rstrip())
        for name, text in details.items():
            label = self._styled(f"{name:<{NAME}}", DIM)
            first, *more = text.split("\n")
            self.line(f"     {label}{first}".rstrip())
            for part in more:
                self.line(f"       {part}")

    def _styled(self, text: str, style: str | None) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self.colour and style and text else text


def json_text(value: object) -> str:
    """Return JSON in one line if that is short, else as lines below what stands before it."""
    text = json.dumps(value)
    return text if len(text) <= LINE else f"\n{json.dumps(value, indent=2)}"


def path_text(path: Path) -> str:
    """Return a path as a person would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
