"""Measured durations: a table to replay, and the CSV file in which it is kept.

The file has one line per duration, in any order, under the header ``iteration,worker,seconds``. Three more columns
are optional: ``stage`` where an iteration has several, ``communicate``, the seconds of one reply, and ``start``, those
before which the worker began nothing. ``inf`` stands for a worker that never answered.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gradcode.delays.bounds import require
from gradcode.delays.law import Floats, Sampler
from gradcode.delays.process import Process

REQUIRED = ("iteration", "worker", "seconds")
_PER_ITERATION = ("communicate", "start")  # the same in all stages
OPTIONAL = ("stage", *_PER_ITERATION)


class Trace(Process):
    """Replays a table of durations, again from its start beyond its end.

    Args:
        table: (iterations, N) seconds per unit of load, ≥ 0; inf: never answers.

    >>> trace = Trace([[1.0, 2.0], [3.0, 4.0]])
    >>> trace.sample(np.random.default_rng(0), 3).tolist()
    [[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]
    """

    def __init__(self, table: npt.ArrayLike) -> None:
        self.table = durations("table", table, (2,))

    def __repr__(self) -> str:
        return f"Trace({self.table.shape[0]} iterations, {self.table.shape[1]} workers)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trace) and np.array_equal(self.table, other.table)

    def __hash__(self) -> int:
        return hash(self.table.tobytes())

    @property
    def workers(self) -> int:
        return int(self.table.shape[1])

    @classmethod
    def read_csv(cls, path: str | Path) -> Trace:
        """The trace in a CSV file.

        Raises:
            ValueError: a bad header or line (named with file and number), a duration missing or given twice,
                or several stages, communication or start times, which only ``DelayTable.from_csv`` can replay.
        """
        compute, communicate, start = read_csv(path)
        if compute.shape[2] > 1 or communicate is not None or start is not None:
            raise ValueError(f"{path}: has stages, communication or start times; read it with DelayTable.from_csv")
        return cls(compute[:, :, 0])

    def to_csv(self, path: str | Path) -> None:
        """Writes the file that ``read_csv`` reads, every duration to its last bit."""
        write_csv(path, self.table[:, :, None])

    def start(self, rng: np.random.Generator, workers: int, stages: int | None = None) -> Sampler:
        self._check_workers(workers)
        return _Replay(self.table if stages is None else np.repeat(self.table[:, :, None], stages, axis=2))


@dataclass
class _Replay:
    table: Floats
    position: int = 0

    def next(self, iterations: int) -> Floats:
        rows = np.arange(self.position, self.position + iterations) % len(self.table)
        self.position += iterations
        return np.asarray(self.table[rows])


def durations(name: str, values: npt.ArrayLike, dimensions: tuple[int, ...]) -> Floats:
    """A read-only copy of durations; ValueError if empty, negative, NaN or of a wrong dimension."""
    array: Floats = np.array(values, dtype=float)
    require(array.ndim in dimensions, f"{name}.shape", array.shape, f"have {dimensions} dimensions")
    require(array.size > 0, f"{name}.shape", array.shape, "hold at least one duration")
    bad = np.argwhere(~(array >= 0))
    if len(bad):
        where = tuple(int(i) for i in bad[0])
        raise ValueError(f"{name}[{', '.join(map(str, where))}]={array[where]} must be >= 0 (inf: never answers)")
    array.flags.writeable = False
    return array


def read_csv(path: str | Path) -> tuple[Floats, Floats | None, Floats | None]:
    """Compute (iterations, N, stages), and communicate and start (iterations, N) where the file has them, in seconds.

    Raises:
        ValueError: names file, line and value of what is wrong.
    """
    cells: dict[tuple[int, int, int], tuple[float, ...]] = {}
    with Path(path).open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        header = [name.strip() for name in next(lines, [])]
        _check_header(path, header)
        for fields in lines:
            where = f"{path}, line {lines.line_num}"
            if not fields:
                continue
            if len(fields) != len(header):
                raise ValueError(f"{where}: {','.join(fields)!r} has {len(fields)} fields, must have {len(header)}")
            row = dict(zip(header, fields, strict=True))
            key = (
                _index(where, "iteration", row["iteration"]),
                _index(where, "worker", row["worker"]),
                _index(where, "stage", row.get("stage", "0")),
            )
            if key in cells:
                raise ValueError(f"{where}: iteration={key[0]}, worker={key[1]}, stage={key[2]} is given twice")
            cells[key] = tuple(_seconds(where, name, row.get(name, "0")) for name in ("seconds", *_PER_ITERATION))
    return _assemble(path, cells, header)


def write_csv(
    path: str | Path, compute: Floats, communicate: Floats | None = None, start: Floats | None = None
) -> None:
    """Writes compute (iterations, N, stages), communicate and start (iterations, N); ``repr`` keeps every bit."""
    staged = compute.shape[2] > 1
    others = {name: own for name, own in zip(_PER_ITERATION, (communicate, start), strict=True) if own is not None}
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow([*REQUIRED, *["stage"] * staged, *others])
        for iteration, worker, stage in np.ndindex(*compute.shape):
            fields: list[object] = [iteration, worker, repr(float(compute[iteration, worker, stage]))]
            if staged:
                fields.append(stage)
            lines.writerow([*fields, *(repr(float(own[iteration, worker])) for own in others.values())])


def _check_header(path: str | Path, header: list[str]) -> None:
    allowed = {*REQUIRED, *OPTIONAL}
    if not set(REQUIRED) <= set(header) or not set(header) <= allowed or len(set(header)) < len(header):
        raise ValueError(
            f"{path}, line 1: header {','.join(header)!r} must be {','.join(REQUIRED)}, "
            f"with {', '.join(OPTIONAL)} if wanted"
        )


def _index(where: str, name: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise ValueError(f"{where}: {name}={text!r} must be a whole number >= 0")
    return value


def _seconds(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ValueError(f"{where}: {name}={text!r} must be a number >= 0 (inf: never answers)")
    return value


def _assemble(
    path: str | Path, cells: dict[tuple[int, int, int], tuple[float, ...]], header: list[str]
) -> tuple[Floats, Floats | None, Floats | None]:
    if not cells:
        raise ValueError(f"{path}: holds no durations")
    keys = np.array(list(cells))
    shape = tuple(int(top) + 1 for top in keys.max(axis=0))
    if len(cells) < shape[0] * shape[1] * shape[2]:
        # Found within one step more than there are cells, however large the indices of a bad line are.
        every = ((i, w, s) for i in range(shape[0]) for w in range(shape[1]) for s in range(shape[2]))
        missing = next(key for key in every if key not in cells)
        names = ", ".join(f"{name}={i}" for name, i in zip(("iteration", "worker", "stage"), missing, strict=True))
        raise ValueError(f"{path}: no duration for {names}; each of {shape} (iterations, workers, stages) needs one")
    values = np.empty((*shape, 1 + len(_PER_ITERATION)))
    values[tuple(keys.T)] = list(cells.values())
    others: dict[str, Floats | None] = {}
    for index, name in enumerate(_PER_ITERATION, 1):
        own = values[..., index]
        if not np.all(own == own[:, :, :1]):
            raise ValueError(f"{path}: {name} must be the same in all stages of a worker's iteration")
        others[name] = own[:, :, 0] if name in header else None
    return values[..., 0], others["communicate"], others["start"]
