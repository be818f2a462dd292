"""The command `crackvae VERB`: parse, call, print tables and one JSON line, and return the exit code."""

import atexit
import gc
import importlib
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from crackvae import api
from crackvae.api import VERBS
from crackvae.cli.parser import EXIT_USER, parse
from crackvae.config import BUILTIN, VerbConfig, flag, read_settings
from crackvae.config.settings import is_location
from crackvae.console import say, tables_text, terminal_width, visible, write
from crackvae.errors import ConfigError, CrackvaeError, LimitBroken
from crackvae.results import Result

EXIT_DONE = 0  # a bug ends with its traceback and 1
# As in a shell: 130 for Ctrl-C, 143 for the SIGTERM with which clusters and operating systems stop a process.
EXIT_INTERRUPTED, EXIT_TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
# The folder that Ray copies a submitted job to, and deletes with it.
JOB_FOLDER = "/runtime_resources/working_dir_files/"
# Settings besides --out that a verb writes to, and those that it writes to without --out.
ALSO_WRITTEN = {
    "train": "model",
    "adapt": "model",
    "compact": "scores",
    "review": "scores",
    "promote": "registry",
    "rollback": "registry",
}
WRITTEN_WITHOUT_OUT = {"calibrate": "model", "change": "after"}
# What may hang when the process ends: a session of Ray, a request to object storage.
EXITS = ("crackvae.session", "crackvae.storage.filesystems")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Exit code: 0 done, 2 a user-facing error or a broken limit, 1 a bug (with its traceback)."""
    _open_missing_streams()
    chosen = parse(sys.argv[1:] if arguments is None else arguments)
    with _terminable() as terminated:
        code = _run(chosen.pop("verb"), chosen, terminated, is_process=arguments is None)
    for module in EXITS:
        if module in sys.modules:
            importlib.import_module(module).exit_if_it_hangs(code)
    return code


def _open_missing_streams() -> None:
    """Let standard streams that the caller has closed lead nowhere; the next file opened would get their number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, open until the process ends
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _run(verb: str, chosen: dict[str, Any], terminated: threading.Event, *, is_process: bool) -> int:
    show_page = chosen.pop("open", False)
    try:
        settings = settings_of(verb, chosen)
        _check_working_folder(verb, settings)
        _announce_output(verb, settings)
        if is_process:
            _import_for_good(verb)
        result = api.run(verb, settings)
    except CrackvaeError as error:
        if isinstance(error, LimitBroken):
            _print(verb, error.outcome)
        say(f"crackvae {verb}: {' '.join(str(error).split())}", quiet=False)
        return EXIT_USER
    except MemoryError as error:
        say(f"crackvae {verb}: out of memory ({' '.join(str(error).split()) or 'no details'}).", quiet=False)
        return EXIT_USER
    except KeyboardInterrupt:
        say(f"crackvae {verb}: interrupted. Run the same command again to continue.", quiet=False)
        return EXIT_TERMINATED if terminated.is_set() else EXIT_INTERRUPTED
    code = _print(verb, result)
    if show_page:
        _open_page(verb, result)
    return code


def _import_for_good(verb: str) -> None:
    """Import the module of a verb and keep it from the garbage collector, which would search all of it while it is
    imported, again while it runs and once more when the process ends: a fifth of the time of a short command.
    """
    atexit.register(gc.freeze)
    gc.disable()
    importlib.import_module(VERBS[verb].module)
    gc.freeze()
    gc.enable()


class _Interrupted(KeyboardInterrupt):
    """The first Ctrl-C or SIGTERM.

    A class of its own, because CPython ends a process by SIGINT, whatever its exit code, if a plain KeyboardInterrupt
    has left source text that was executed as a string, as modules do while they are imported, even where it was caught.
    """


@contextmanager
def _terminable() -> Iterator[threading.Event]:
    """Within the block Ctrl-C and SIGTERM interrupt once; the event is set if it was SIGTERM.

    A second signal must not interrupt the writing of finished results. A third Ctrl-C ends the process at once, for a
    user who cannot wait: files are complete or absent.
    """
    terminated, times = threading.Event(), itertools.count(1)

    def interrupt(number: int, _frame: object) -> None:
        time = next(times)
        if time == 1:
            if number == signal.SIGTERM:
                terminated.set()
            raise _Interrupted
        if number == signal.SIGINT and time > 2:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        os.write(2, b"stopping: finished results are being written. A third Ctrl-C ends at once.\n")

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield terminated
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield terminated
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def settings_of(verb: str, flags: dict[str, Any]) -> VerbConfig:
    """The settings of a call: those of the TOML file, if there is one, overridden by flags."""
    file = flags.pop("config", None)
    config_class = VERBS[verb].config
    values = (read_settings(file, config_class) if file else {}) | flags
    required = [one.name for one in fields(config_class) if api.is_required(one)]
    missing = [flag(name) for name in required if name not in values]
    if missing and not values.get("resume"):
        raise ConfigError(f"{' and '.join(missing)} must be given. See --help.")
    return api.settings_of(verb, values)


def _check_working_folder(verb: str, settings: VerbConfig) -> None:
    """Refuse relative paths where they would be lost or mean nothing."""
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        relative = [one.name for one in fields(settings) if _is_relative(settings, one.name)]
        if relative:
            raise ConfigError(
                f"the current folder no longer exists, and {flag(relative[0])} is relative to it: "
                "change to another folder (cd), or give absolute paths."
            ) from None
        os.chdir("/")  # the processes that a verb starts need a folder that exists
        return
    if JOB_FOLDER not in folder:
        return
    for name in _written(verb, settings):
        if _is_relative(settings, name):
            raise ConfigError(
                f"{flag(name)} {getattr(settings, name)} is relative, and this job's folder is deleted with the job: "
                "give an absolute path or a URI."
            )


def _written(verb: str, settings: VerbConfig) -> list[str]:
    """The settings that name what a verb writes; `doctor` leaves nothing in its --out."""
    names = ["out"] if verb != "doctor" else []
    if verb in ALSO_WRITTEN:
        names.append(ALSO_WRITTEN[verb])
    if verb in WRITTEN_WITHOUT_OUT and not getattr(settings, "out", ""):
        names.append(WRITTEN_WITHOUT_OUT[verb])
    return names


def _is_relative(settings: VerbConfig, name: str) -> bool:
    """Whether a setting is a path below the current folder."""
    value = getattr(settings, name, "") if is_location(type(settings), name) else ""
    paths = value if isinstance(value, tuple) else (value,)
    local = [path for path in paths if path not in ("", BUILTIN) and "://" not in path]
    return any(not os.path.isabs(os.path.expanduser(path.removeprefix("@"))) for path in local)


def _announce_output(verb: str, settings: VerbConfig) -> None:
    """Say where a verb writes, if that is its default folder below the current one."""
    default = next((one.default for one in fields(settings) if one.name == "out" and not api.is_required(one)), "")
    if default and verb != "doctor" and settings.out == default:  # type: ignore[attr-defined]
        say(f"writing to {os.path.abspath(str(default))} (--out chooses another folder)", quiet=settings.quiet)


def _print(verb: str, result: Result) -> int:
    """Tables for people and the address of the page, then the summary as one JSON line, always the last."""
    shown = tables_text(result.tables, terminal_width(sys.stdout))
    page = _page_of(result)
    address = f"\n\npage: {visible(page)}" if page else ""
    try:
        write(sys.stdout, f"\n{shown}{address}\n\n{json.dumps(result.summary, allow_nan=False)}\n")
    except OSError as error:  # a full disk
        say(f"crackvae {verb}: cannot write to standard output: {error.strerror}. All files are written.", quiet=False)
        return EXIT_USER
    return EXIT_DONE


def _page_of(result: Result) -> str:
    """Address of the page as a browser takes it, or ""."""
    page: str = getattr(result, "page", "")
    return page if not page or "://" in page else Path(page).as_uri()


def _open_page(verb: str, result: Result) -> None:
    import webbrowser  # rarely needed

    page = _page_of(result)
    if not page:
        say(f"crackvae {verb}: there is no page to open.", quiet=False)
    elif not page.startswith("file://") or not webbrowser.open(page):
        say(f"crackvae {verb}: no browser here opens {page}: copy the page to a machine with one.", quiet=False)
