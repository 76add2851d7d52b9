"""A folder of manifests under churn, and what an agent that follows it must take it to mean.

Files are renamed into place, written together, in two halves, broken, corrected, moved, deleted and made again. What an
object was before its file broke stays in use; what a broken file was before the agent started is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from churn.manifests import SUFFIXES, Name, Object, cut, encoded, name_of, refused, text

Meaning = Mapping[Name, Object]
"""What one file means: its objects by name."""
Action = Callable[[], None]

_HOW = ("renamed", "renamed", "renamed", "renamed", "in place", "halves", "broken", "refused", "moved", "again")


@dataclass(slots=True)
class _Known:
    """A file: its name on disk, what it means to an agent that saw all of it, and to one that starts now."""

    name: str
    meaning: Meaning
    afresh: Meaning
    wanted: tuple[Object, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes decided but not yet made: what to do, in order, and all that each touched file may mean meanwhile."""

    actions: list[Action] = field(default_factory=list)
    versions: dict[str, list[Meaning]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


class Folder:
    """`titles` name files whatever they are called on disk."""

    def __init__(self, path: Path, random: Random) -> None:
        self.path, self._random = path, random
        self._files: dict[str, _Known] = {}
        self._unread: set[str] = set()
        self._count = 0
        path.mkdir(exist_ok=True)

    def meaning(self, title: str) -> Meaning:
        """What the file means now, nothing if there is none."""
        known = self._files.get(title)
        return known.meaning if known else {}

    def objects(self) -> Iterable[Object]:
        """Everything the folder means."""
        return (one for known in self._files.values() for one in known.meaning.values())

    def broken(self) -> list[str]:
        """The files that do not say what they were meant to."""
        return [
            title
            for title, known in self._files.items()
            if known.meaning != _meaning(known.wanted) or known.afresh != known.meaning
        ]

    def restarted(self) -> None:
        """An agent without memory begins and reads everything."""
        self._unread = set(self.broken())
        for known in self._files.values():
            known.meaning = known.afresh

    @property
    def complete(self) -> bool:
        """Whether the agent, as old as it is, has understood every file at some time: only then may it sweep."""
        return not self._unread

    def towards(
        self, wanted: Mapping[str, tuple[Object, ...]], *, correct: Iterable[str] = (), calm: bool = False
    ) -> Batch:
        """What makes the folder hold `wanted`, in ways chosen at random, or by renaming alone if `calm`.

        Files that are not as they were meant stay so unless they change, or are in `correct`.
        """
        batch = Batch()
        together: list[tuple[Path, str]] = []
        for title in sorted({*wanted, *self._files}):
            objects, known = wanted.get(title), self._files.get(title)
            if objects is None:
                if known is not None:
                    self._delete(batch, title, known)
            elif known is None or known.wanted != objects or title in correct:
                how = "renamed" if calm or title in correct else self._random.choice(_HOW)
                self._change(batch, together, title, objects, how)
        self._random.shuffle(together)
        for new, content in together:
            batch.actions.append(lambda new=new, content=content: _rename_into(new, content))
        return batch

    # --- single files ---

    def _change(
        self, batch: Batch, together: list[tuple[Path, str]], title: str, objects: tuple[Object, ...], how: str
    ) -> None:
        old = self._files.get(title)
        known = old or _Known(f"{title}{self._random.choice(SUFFIXES)}", {}, {}, ())
        self._files[title] = known
        before, path = known.meaning, self.path / known.name
        documents = [encoded(each) for each in objects]
        suffix = path.suffix
        if suffix == ".json" and how in ("halves", "broken", "refused"):
            how = "renamed"  # their beginnings mean other things
        known.wanted, known.meaning = objects, _meaning(objects)
        known.afresh = known.meaning
        versions = batch.versions.setdefault(title, [before])
        content = text(self._random, suffix, documents)
        batch.said.append(f"{known.name} {how}")
        if how not in ("broken", "refused"):
            self._unread.discard(title)
        match how:
            case "in place":
                batch.actions.append(lambda: _write(path, content))
            case "halves":
                start, whole = cut(self._random, documents)
                versions.append({**before, **_meaning(objects[:whole])})
                halves = _Halves(path, "".join(f"---\n{json.dumps(each)}\n" for each in documents), len(start))
                batch.actions.extend((halves.begin, halves.end))
            case "broken":
                start, whole = cut(self._random, documents)
                known.afresh = _meaning(objects[:whole])
                known.meaning = {**before, **known.afresh}
                batch.actions.append(lambda: _write(path, start))
            case "refused":
                number = self._random.randrange(len(documents))
                documents[number] = refused(self._random, documents[number])
                known.afresh = _meaning(objects[:number] + objects[number + 1 :])
                stays = {name: one for name, one in before.items() if name == name_of(objects[number])}
                known.meaning = {**stays, **known.afresh}
                wrong = text(self._random, suffix, documents)
                batch.actions.append(lambda: _rename_into(path, wrong))
            case "moved" if old is not None:
                self._count += 1
                known.name = f"{title}.{self._count}{suffix}"
                moved = self.path / known.name
                batch.actions.extend((lambda: path.rename(moved), lambda: _rename_into(moved, content)))
            case "again" if old is not None:
                versions.append({})
                batch.actions.extend((path.unlink, lambda: _write(path, content)))
            case _:
                together.append((path, content))
        versions.append(known.meaning)

    def _delete(self, batch: Batch, title: str, known: _Known) -> None:
        batch.said.append(f"{known.name} deleted")
        batch.versions[title] = [known.meaning, {}]
        batch.actions.append((self.path / known.name).unlink)
        self._unread.discard(title)
        del self._files[title]


def _meaning(objects: Iterable[Object]) -> Meaning:
    return {name_of(each): each for each in objects}


def _rename_into(path: Path, content: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(content)
    draft.rename(path)


def _write(path: Path, content: str) -> None:
    path.write_text(content)


class _Halves:
    """A file that is written in two pieces; only when it is closed is it complete."""

    def __init__(self, path: Path, whole: str, first: int) -> None:
        self._path, self._whole, self._first = path, whole, first

    def begin(self) -> None:
        self._file = self._path.open("w")
        self._file.write(self._whole[: self._first])
        self._file.flush()

    def end(self) -> None:
        self._file.write(self._whole[self._first :])
        self._file.close()
