"""bird as a mechanism of the host: the speaker of BGP, and the routes it leaves when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from netplane.kernel import bird, bird_files, bird_process, bird_routes
from netplane.kernel.bird import MECHANISM, BirdControl, Session, Unreachable, sessions
from netplane.kernel.bird_files import BirdFiles, Configuration
from netplane.kernel.bird_process import BirdProcess
from netplane.kernel.links import Links
from netplane.kernel.mechanism import Drift, Pending, Sweeping
from netplane.model.address import IPNetwork
from netplane.programs.bird import changed_lines
from netplane.programs.network import NetworkProgram
from netplane.programs.program import Program

FOLDER = "bird"
"""Its place in the run directory."""
_START = "+ start bird"


@dataclass(frozen=True, slots=True)
class _Found:
    """What there is of ours: whether bird runs, what its configuration lacks, routes and files that nobody wants, and
    sessions that found their port taken."""

    runs: bool
    changes: tuple[str, ...] = ()
    left: tuple[IPNetwork, ...] = ()
    files: bool = False
    silent: tuple[str, ...] = ()


class BirdMechanism:
    """The bird of the network namespace of the thread that creates it. `run` is the agent's run directory.

    bird is no child of ours and outlives us; whoever comes next finds it by its folder (bird_process). While it is away
    its routes stay in the kernel. A configuration it refuses changes nothing: the old one stays in use.
    """

    name = MECHANISM

    def __init__(self, run: Path) -> None:
        self._path = run / FOLDER
        self._kernel = Links()
        self._process: BirdProcess | None = None
        self._searched = False
        self._applied: str | None = None
        """What bird has, as far as we know; None if we do not."""

    @property
    def told(self) -> bool:
        """See `Mechanism.told`. Nobody tells us that bird ended."""
        return not self._applied

    def pending(self, want: Program, *, reread: bool, sweep: bool) -> Pending:  # noqa: ARG002  not at one stroke
        """See `Mechanism.pending`. Raises InputError if a file with a password cannot be used."""
        text = want.network.bird
        if text == self._applied and not reread and not self.disturbed():
            found, configuration = _Found(runs=bool(text)), Configuration(text, "")
        else:
            configuration = Configuration.of(text)
            found = self._found(configuration)
        made = [*found.changes, *(f"+ enable {name}" for name in found.silent)]
        made += [_START] if text and not found.runs else []
        swept = [] if text else _leftovers(found)
        ended = text == self._applied and bool(text) and not found.runs
        return Pending(
            mechanism=self.name,
            made=len(made),
            swept=len(swept),
            make=lambda: self._make(configuration, found),
            sweep=lambda: self._sweep(want.network, found),
            lines=lambda: [*made, *swept],
            drift=Drift.of(1, [_START]) if ended else Drift(),
            sweeping=Sweeping.IF_ALL_MADE,
        )

    def disturbed(self) -> bool:
        """See `Mechanism.disturbed`: whether bird ended."""
        return bool(self._applied) and not self._alive()

    def mark(self) -> object:
        """See `Mechanism.mark`."""
        return self._process.pid if self._process and self._process.alive else 0

    def forget(self) -> None:
        """See `Mechanism.forget`."""
        self._applied = None

    def close(self) -> None:
        """See `Mechanism.close`. bird runs on."""
        self._let_go()
        self._kernel.close()

    def sessions(self) -> tuple[Session, ...]:
        """Its sessions. Raises KernelError if it does not answer."""
        return sessions(self._path)

    def _alive(self) -> bool:
        return self._process is not None and self._process.alive

    def _find(self) -> BirdProcess | None:
        """Every process is looked at only once: all that come later are started here, and have a pid file."""
        if not self._alive():
            self._let_go()
            self._process = bird_process.find(self._path, everywhere=not self._searched)
            self._searched = True
        return self._process

    def _let_go(self) -> None:
        if self._process:
            self._process.close()
        self._process = None

    def _found(self, want: Configuration) -> _Found:
        runs = self._find() is not None
        if not want.text:
            return _Found(runs, left=bird_routes.left(self._kernel), files=bird_files.exist(self._path))
        if not self._path.is_dir():
            return _Found(runs, tuple(changed_lines("", want.text)))
        with BirdFiles(self._path) as files:
            if files.has(want):
                return self._asked() if runs else _Found(runs)
            return _Found(runs, tuple(changed_lines(files.text(), want.text)) or ("+ configure bird",))

    def _asked(self) -> _Found:
        """What the bird that runs says of itself. One that cannot be asked has to be started again."""
        try:
            return _Found(runs=True, silent=bird.without_port(self._path))
        except Unreachable:
            return _Found(runs=False)

    def _make(self, want: Configuration, found: _Found) -> None:
        if want.text and (found.changes or not found.runs):
            with BirdFiles.made(self._path) as files:
                self._bring(files, want)
        elif found.silent:
            bird.enable(self._path, found.silent)
        if want.text:
            self._applied = want.text

    def _bring(self, files: BirdFiles, want: Configuration) -> None:
        """Have bird run with this. Its old configuration is not touched before it has said yes to the new one."""
        control = self._control(files.path)
        try:
            files.stage(want)
            if control:
                control.ask(f'configure "{files.next.name}/{bird_process.CONFIGURATION}"')
            else:
                bird_process.check(files.next)
            files.install(want)
            if not control:
                self._process = bird_process.start(files.path, recover=bool(bird_routes.left(self._kernel)))
            files.took(want)
        finally:
            files.unstage()
            if control:
                control.close()

    def _control(self, folder: Path) -> BirdControl | None:
        """The way to speak with bird; None if it does not run. One that cannot be spoken with is killed: its routes
        stay, and those it speaks with think that it is about to come back."""
        process = self._find()
        if process is None:
            return None
        try:
            return BirdControl(folder)
        except Unreachable:
            process.kill()
            self._let_go()
            return None

    def _sweep(self, want: NetworkProgram, found: _Found) -> None:
        """Remove what is ours, once everything that takes its place is made.

        Where another way to the Pods takes over, all nodes change at about the same time: those that still speak BGP
        keep our routes meanwhile. Where nothing does, they are told at once.
        """
        if want.bird:
            return
        if process := self._find():
            process.end(self._path, graceful=want != NetworkProgram())
            self._let_go()
        if found.runs or found.left:
            bird_routes.remove(self._kernel, bird_routes.left(self._kernel))
        if found.files:
            with BirdFiles(self._path) as files:
                files.remove()
        self._applied = want.bird


def _leftovers(found: _Found) -> list[str]:
    ends = ["- end bird"] if found.runs else []
    files = ["- the files of bird"] if found.files else []
    return [*ends, *(f"- bird's route to {network}" for network in found.left), *files]
