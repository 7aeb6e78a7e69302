"""A text file that is written line by line and is whole after every line."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gradcode.errors import GradcodeError


class LineFile:
    """Every ``write`` reaches the operating system before it returns, so that a crash costs at most one line.

    Args:
        path: of the file; its folder is made.
        keep: what the file holds to begin with; what it held before is replaced in one step.

    Raises:
        GradcodeError: the file cannot be written.
    """

    def __init__(self, path: Path | str, keep: Sequence[str] = ()) -> None:
        self.path = Path(path)
        partial = self.path.with_name(f".{self.path.name}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text("".join(keep), encoding="utf-8")
            partial.replace(self.path)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise self._refused(error) from error

    def write(self, text: str) -> None:
        """Appends ``text``.

        Raises:
            GradcodeError: the disk is full, or the file cannot be written for another reason.
        """
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """May be called twice. What could not be written was said by ``write``."""
        with suppress(OSError):
            self._file.close()

    def _refused(self, error: OSError) -> GradcodeError:
        return GradcodeError(
            f"cannot write {self.path}: {error.strerror or error}. Make room or choose another folder, then go on "
            f"with --resume"
        )
