"""The key that seals sessions: of the settings, or in a file for its owner's eyes only."""

import os
import re
from pathlib import Path
from tempfile import NamedTemporaryFile

from indexer import log
from indexer.config.settings import PREFIX, Settings
from indexer.config.values import KEY_BYTES

_log = log.get("sessions")


class NoSessionError(Exception):
    """Nothing can be written to this repo until a person logs in; the text says why."""


class KeyFileError(NoSessionError):
    """The key can't be used; the text says what to do."""


def load(settings: Settings) -> bytes | None:
    """Return the key of the settings, or of the file; None if there is none yet."""
    if settings.secret_key is not None:
        return bytes.fromhex(settings.secret_key.get_secret_value())
    return read(settings.key_file)


def name(settings: Settings) -> str:
    """Return where the key is, for messages."""
    if settings.secret_key is not None:
        return f"{PREFIX}SECRET_KEY"
    return f"the key file {settings.key_file}"


def read(path: Path) -> bytes | None:
    """Return the key in a file, or None if there is none; refuse one that others can read."""
    try:
        mode = path.stat().st_mode
        text = path.read_bytes().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyFileError(f"the key file {path} can't be used: {error.strerror}") from None
    if not re.fullmatch(rb"[0-9a-fA-F]{%d}" % (KEY_BYTES * 2), text):
        raise KeyFileError(f"the key file {path} does not hold {KEY_BYTES * 2} hex digits")
    if mode & 0o077:
        raise KeyFileError(f"others can read the key file {path}: run `chmod 600 {path}`")
    return bytes.fromhex(text.decode())


def make(path: Path) -> bytes:
    """Make a new key in a file, and return it, or the one that another process made first."""
    write(path, os.urandom(KEY_BYTES))
    key = read(path)
    assert key is not None, "it was there a moment ago"  # noqa: S101
    return key


def write(path: Path, key: bytes) -> bool:
    """Put a key into a new file; False, and no change, if there is one."""
    # Whole before it has its name: another process may look for it now, or the power may fail.
    try:
        with NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.name}.") as file:  # mode 0600
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
            try:
                os.link(file.name, path)
            except FileExistsError:
                return False
    except OSError as error:
        raise KeyFileError(f"the key file {path} can't be used: {error.strerror}") from None
    _log.info("key.made", file=str(path))
    return True


def next_file(settings: Settings) -> Path:
    """Return where `rescind key rotate` keeps the new key until all is sealed with it."""
    return settings.key_file.with_name(settings.key_file.name + ".next")
