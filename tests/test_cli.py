"""The command: one line for a usage error, tables and one JSON line for a result, and the exit code."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import HOUSE, read_rows, small_spec, write_model
from ray_head import Head, environment

from crackvae import cli, results
from crackvae.cli import VERBS, main
from crackvae.cli.parser import parse
from crackvae.storage import fileio, filesystems


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on standard error of a call with a usage error."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2 and captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(("crackvae: ", f"crackvae {arguments[0]}: "))
    return line


def test_help_needs_neither_ray_nor_torch() -> None:
    script = (
        "import sys, contextlib, crackvae.cli as cli\n"
        "for verb in cli.VERBS:\n"
        "    with contextlib.suppress(SystemExit): cli.main([verb, '--help'])\n"
        "print(sorted({'ray', 'torch'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(f"usage: crackvae {verb}" in done.stdout for verb in VERBS)


def test_help_ends_with_where_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert " ".join(capsys.readouterr().out.rpartition("\n\n")[2].split()).startswith(
        "Begin with crackvae score PHOTOS"
    )


def test_every_flag_has_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        assert "None" not in capsys.readouterr().out


def test_partition_prints_tables_and_then_one_json_line(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["partition", "--images", str(drawn), "--out", str(tmp_path), "--external", "0,0"]) == 0
    captured = capsys.readouterr()
    *tables, last = captured.out.splitlines()
    summary = json.loads(last)
    assert summary["manifest"] == str(tmp_path / "manifest.parquet") and summary["images"] == 300
    assert any(line.startswith("internal train") for line in tables)
    assert "read:" in captured.err


def test_quiet_says_nothing_on_standard_error(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["partition", "--images", str(drawn), "--out", str(tmp_path), "--external", "0,0", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_flags_win_over_the_toml_file(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "night.toml").write_text(
        f'images = "{drawn}"\nexternal = [10, 10]\ngroup-by = "none"\nquiet = true\n'
        'labels = { non_crack = "non_crack", crack = "crack" }\n'
    )
    assert main(["partition", "--config", str(tmp_path / "night.toml"), "--out", str(tmp_path), "--external=5,5"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["counts"]["external test"] == {"non_crack": 5, "crack": 5} and summary["leaky"] is True


def test_a_usage_error_in_a_flag_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--images and --out must be given" in fails(capsys, "partition")
    assert "--nonsense" in fails(capsys, "score", "--nonsense", 3)
    assert "argument --epochs: 'many' is not a whole number. See" in fails(capsys, "train", "--epochs", "many")
    assert "argument --external: 'x' is not a whole number. See" in fails(capsys, "partition", "--external", "x")
    assert "head=best is not one of mse, evidence" in fails(
        capsys, "train", "--manifest", "m", "--model", "m", "--head", "best"
    )
    assert "nowhere.toml" in fails(capsys, "score", "--config", tmp_path / "nowhere.toml")
    (tmp_path / "typo.toml").write_text("imagse = 3")
    assert "unknown setting 'imagse'" in fails(capsys, "score", "--config", tmp_path / "typo.toml")


def test_a_wrong_verb_flag_or_key_suggests_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "scroe", "--images", "x")
    assert line.startswith("crackvae: unknown verb 'scroe' (did you mean score?). Known: partition, train,")
    assert "unknown argument --imags (did you mean --images?)" in fails(capsys, "score", "--imags=x")
    assert "unknown argument --qq. See crackvae score --help." in fails(capsys, "score", "--qq")
    (tmp_path / "typo.toml").write_text("learning-rat = 1e-3\n")
    assert "'learning-rat' (did you mean learning_rate?)" in fails(capsys, "train", "--config", tmp_path / "typo.toml")


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("crackvae sc", {"score"}),
        ("crackvae train --sched", {"--schedule"}),
        ("crackvae train --schedule ", {"cosine", "constant"}),
        ("crackvae score ph", {"photographs/"}),
    ],
)
def test_a_shell_completes_verbs_flags_choices_and_paths(line: str, completions: set[str], tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    env = os.environ | {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SUPPRESS_SPACE": "1", "_ARGCOMPLETE_IFS": "\n"}
    env |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "PYTHONPATH": str(HOUSE)}
    env |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "completions")}
    subprocess.run([sys.executable, "-m", "crackvae"], env=env, cwd=tmp_path, check=True)
    assert set((tmp_path / "completions").read_text().split("\n")) == completions


def test_a_deleted_working_folder_matters_to_relative_paths_only(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    score = ("score", "--images", tmp_path / "none", "--model", model_dir, "--quiet", "--out")
    assert "the current folder no longer exists, and --out is relative to it" in fails(capsys, *score, "scores")
    assert "No such file or directory. Check the spelling" in fails(capsys, *score, tmp_path / "scores")


def test_usage_errors_with_files_are_one_line_each_with_advice(
    drawn: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", small_spec())
    (tmp_path / "empty").mkdir()
    (tmp_path / "corrupt.parquet").write_bytes(manifest.read_bytes()[:-20])
    out = tmp_path / "out"
    partition = ("partition", "--quiet", "--out", out, "--images")
    assert "No such file or directory. Check the spelling" in fails(capsys, *partition, tmp_path / "nowhere")
    assert "a path is empty" in fails(capsys, *partition, "")
    assert "contains no images" in fails(capsys, *partition, tmp_path / "empty")
    assert "--labels FOLDER=non_crack" in fails(capsys, *partition, drawn, "--labels", "A=non_crack,B=crack")
    assert "Give --external 0,0" in fails(capsys, *partition, drawn)
    assert "exists already" in fails(capsys, "partition", "--images", drawn, "--out", manifest.parent)
    assert "exists already" in fails(capsys, "train", "--manifest", manifest, "--model", model)
    assert "is not a whole table" in fails(
        capsys, "train", "--manifest", tmp_path / "corrupt.parquet", "--model", tmp_path / "new"
    )
    score = ("score", "--quiet", "--out", out, "--images")
    assert "is no model directory" in fails(capsys, *score, drawn, "--model", tmp_path / "empty")
    assert "contains no images" in fails(capsys, *score, tmp_path / "empty", "--model", model)
    assert "names no bucket" in fails(capsys, *score, "s3://", "--model", model)
    assert "http:// cannot be read: copy it" in fails(capsys, *score, "http://host/x", "--model", model)
    assert not out.exists()


def test_a_model_of_another_version_is_one_line(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", small_spec())
    content = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(content | {"format": 1}))
    line = fails(capsys, "score", "--images", drawn, "--model", model, "--out", tmp_path / "out")
    assert "format 1 by another version" in line and "Train it again" in line


def test_a_folder_without_write_permission_is_one_line(
    drawn: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fileio, "open", refuse(errno.EACCES), raising=False)
    line = fails(capsys, "score", "--images", drawn, "--model", model_dir, "--out", tmp_path / "out")
    assert "Permission denied. Give this user the right" in line


def test_a_full_disk_is_one_line(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = open

    def full(file: object, mode: str = "r", **more: object) -> object:
        return refuse(errno.ENOSPC)(file) if "w" in mode else real(file, mode, **more)

    monkeypatch.setattr(fileio, "open", full, raising=False)
    line = fails(capsys, "partition", "--images", drawn, "--out", tmp_path, "--external", "0,0", "--quiet")
    assert "No space left on device. Free some space" in line
    assert not list(tmp_path.iterdir())


def refuse(code: int) -> object:
    def refusing(*_: object, **__: object) -> object:
        raise OSError(code, os.strerror(code))

    return refusing


@pytest.mark.slow
def test_an_unreachable_uri_is_one_line(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in (("ATTEMPTS", 1), ("FIRST_NOTICE_S", 1e9)):  # a slow machine would say what it waits for
        monkeypatch.setattr(filesystems, name, value)
    nobody = "s3://bucket/night?region=eu-central-1&endpoint_override=127.0.0.1:9&scheme=http"
    line = fails(capsys, "score", "--images", nobody, "--model", model_dir, "--out", tmp_path)
    assert "cannot list s3://bucket/night" in line and "credentials" in line


@pytest.mark.slow
def test_an_unreachable_cluster_is_one_line(drawn: Path, model_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "crackvae", "score", "--images", drawn, "--model", model_dir]
    flags = ["--out", tmp_path, "--address", "127.0.0.1:9", "--quiet"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("crackvae score: no Ray cluster at 127.0.0.1:9")
    assert "Traceback" not in done.stderr


def test_plain_arguments_may_stand_before_and_after_flags(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = parse(["score", "a.jpg", "--images", "c,d/", "--quiet", "b/", "--images", "e"])
    assert chosen == {"verb": "score", "config": None, "quiet": True, "images": ["a.jpg", "b/", "c,d/", "e"]}
    assert parse(["score", "a.jpg", "--", "-b.jpg"])["images"] == ["a.jpg", "-b.jpg"]
    assert "unknown argument b. See" in fails(capsys, "compact", "--scores", "a", "b")
    assert "info takes one path, and not b as well. See" in fails(capsys, "info", "a", "b")


@pytest.mark.usefixtures("in_process")
def test_images_and_folders_are_scored_into_the_default_folder_and_the_page_is_named_last(
    drawn: Path,
    model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(drawn / "crack", tmp_path / "b [1]")
    first = shutil.copy(drawn / "non_crack" / next(iter(sorted(os.listdir(drawn / "non_crack")))), tmp_path / "a.jpg")
    opened: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("webbrowser.open", lambda page: not opened.append(page))
    assert main(["score", "a.jpg", "b [1]/", str(first), "--model", str(model_dir), "--open"]) == 0
    captured = capsys.readouterr()
    *_, page, blank, last = captured.out.splitlines()
    summary = json.loads(last)
    assert captured.err.splitlines()[0].startswith(f"writing to {tmp_path / 'scores'} (--out")
    assert summary["listed"] == 61 and summary["images"] == f"{tmp_path / 'a.jpg'} and 1 more"
    assert page == f"page: {Path(summary['report']).as_uri()}" and blank == "" and opened == [page[6:]]
    assert set(read_rows(tmp_path / "scores")["group"].to_pylist()) == {"", "b [1]"}


@pytest.mark.parametrize("page", ["", "s3://bucket/page.html", "/tmp/page.html"])
def test_a_page_that_no_browser_opens_is_one_line(
    page: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webbrowser.open", lambda _: False)
    cli._open_page("report", results.ReportResult({}, {}, page, 0))
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and ("no page" in line if not page else "copy the page" in line)


@pytest.mark.usefixtures("in_process")
def test_a_broken_limit_prints_the_summary_and_ends_with_2(
    drawn: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night = tmp_path / "night"
    night.mkdir()
    (night / "empty.jpg").write_bytes(b"")
    code = main(["score", "--images", str(night), "--model", str(model_dir), "--out", str(tmp_path / "o"), "--quiet"])
    captured = capsys.readouterr()
    assert code == 2 and json.loads(captured.out.splitlines()[-1])["unreadable"] == 1
    assert captured.err.startswith("crackvae score: 1 of 1 images are unreadable") and captured.err.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crackvae.images.manifest.partition", lambda config: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["partition", "--images", "x", "--out", "y"])


def test_an_interruption_says_how_to_continue(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crackvae.images.manifest.partition", interrupted)
    assert main(["partition", "--images", "x", "--out", "y"]) == 130
    assert "Run the same command again" in capsys.readouterr().err


def test_sigterm_ends_a_verb_as_ctrl_c_does_once_and_leaves_the_handler_as_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned = []

    def terminated(config: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # a second one does not interrupt the cleanup
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("crackvae.images.manifest.partition", terminated)
    assert main(["partition", "--images", "x", "--out", "y"]) == 143 and cleaned == [True]
    assert "Run the same command again" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_within_source_text_that_a_module_executes_ends_with_its_own_code(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """As in the second in which modules are imported: a named tuple or a dataclass executes text."""
    program = (
        "import os, sys; from crackvae import cli; from crackvae.images import manifest\n"
        f"manifest.partition = lambda _: exec('os.kill(os.getpid(), {number:d})')\n"
        "sys.exit(cli.main(['partition', '--images', 'x', '--out', 'y']))"
    )
    env = os.environ | {"PYTHONPATH": str(HOUSE)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr == "crackvae partition: interrupted. Run the same command again to continue.\n"


@pytest.mark.slow
@pytest.mark.parametrize(("times", "code"), [(2, 130), (3, -signal.SIGINT)])
def test_a_second_ctrl_c_does_not_interrupt_the_cleanup_and_a_third_ends_at_once(
    times: int, code: int, tmp_path: Path
) -> None:
    program = (
        "import os, signal, sys, time; from crackvae import cli; from crackvae.images import manifest\n"
        "def work(config):\n"
        "    try: time.sleep(60) if os.kill(os.getpid(), signal.SIGINT) else None\n"
        "    finally:\n"
        f"        for _ in range({times - 1}): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.01)\n"
        "        print('cleaned up')\n"
        "manifest.partition = work; sys.exit(cli.main(['partition', '--images', 'x', '--out', 'y']))"
    )
    env = os.environ | {"PYTHONPATH": str(HOUSE)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert ("cleaned up" in done.stdout) == (times == 2) and "A third Ctrl-C ends at once" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["| head -c 1", "| cat"])
def test_a_closed_pipe_or_an_ascii_terminal_does_not_end_a_verb_and_a_name_cannot_change_its_colours(
    reader: str, tmp_path: Path
) -> None:
    program = (
        "import sys, pandas as pd; from crackvae import cli, results; from crackvae.images import manifest\n"
        "names = ['Br\u00fccke.jpg', 'red\x1b[31m.jpg', 'turned\u202egpj.exe'] * 4000\n"
        "one = dict(manifest='m', images=1, groups=1, left_out=0, leaky=False, leaking_images=0)\n"
        "manifest.partition = lambda _: results.Result(one, {'t': pd.DataFrame({'image': names})})\n"
        "sys.exit(cli.main(['partition', '--images', 'x', '--out', 'y']))"
    )
    env = os.environ | {"PYTHONPATH": str(HOUSE), "PYTHONIOENCODING": "ascii", "PROGRAM": program}
    shell = f'set -o pipefail; "{sys.executable}" -c "$PROGRAM" {reader}'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout and (reader != "| cat" or r"red\u27e8U+001B\u27e9[31m.jpg" in done.stdout)


def test_out_of_memory_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(config: object) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr("crackvae.images.manifest.partition", greedy)
    assert main(["partition", "--images", "x", "--out", "y"]) == 2
    assert capsys.readouterr().err == "crackvae partition: out of memory (Unable to allocate 9 GiB).\n"


def test_a_terminated_run_on_ray_writes_finished_rows_and_the_next_continues(
    head: Head, drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    code = (
        "import os, signal, sys; from crackvae import cli; from crackvae.scoring import actors, run_table\n"
        "real, actors.BLOCK_IMAGES, seen = run_table.RunTable.add, 8, []\n"
        "def add(table, rows):\n"
        "    real(table, rows); seen.append(1); len(seen) == 3 and os.kill(os.getpid(), signal.SIGTERM)\n"
        "run_table.RunTable.add = add; sys.exit(cli.main(sys.argv[1:]))"
    )
    flags = ["score", "--images", drawn, "--model", model_dir, "--out", tmp_path / "out", "--workers", "2", "--quiet"]
    command = [sys.executable, "-c", code, *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(head.address))
    assert done.returncode == 143, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("crackvae score: interrupted. Run the same command again")
    assert read_rows(tmp_path / "out").num_rows == 24 and not list((tmp_path / "out").glob("_lock*"))


def test_a_submitted_job_may_not_write_into_its_own_temporary_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert "--out scores is relative" in fails(capsys, "score", "--images", "/x", "--model", "m", "--out", "scores")
    assert "--model m is relative" in fails(capsys, "train", "--manifest", "/x", "--model", "m")
    assert "--model m is relative" in fails(capsys, "calibrate", "--images", "/x", "--model", "m")
    assert "--scores s is relative" in fails(capsys, "compact", "--scores", "s")
    assert "--scores s is relative" in fails(capsys, "review", "--scores", "s", "--import", "/x")
    assert "--after s is relative" in fails(capsys, "change", "--before", "/x", "--after", "s")
    assert "--registry r is relative" in fails(capsys, "promote", "--model", "/x", "--registry", "r")
    assert "--registry r is relative" in fails(capsys, "rollback", "--registry", "r", "--why", "x")
    assert cli.main(["doctor"]) in (0, 2) and "is relative" not in capsys.readouterr().err
    monkeypatch.setenv("HOME", str(tmp_path))
    for out in ("/x", "~/scores"):
        assert "is no model directory" in fails(capsys, "score", "--images", "/x", "--model", "m", "--out", out)


@pytest.mark.usefixtures("in_process", "builtin_model")
def test_the_demo_scores_photographs_with_the_built_in_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crackvae.cli.demo.PHOTOGRAPH_PX", 128)
    assert cli.main(["demo", "--out", str(tmp_path), "--quiet"]) == 0
    shown = capsys.readouterr().out
    summary = json.loads(shown.splitlines()[-1])
    assert summary["score"]["scored"] == 4 and summary["score"]["model_dir"] == "builtin"
    assert f"page: {Path(summary['score']['report']).as_uri()}" in shown


@pytest.mark.usefixtures("ray_session")
def test_the_demo_runs_every_verb_and_prints_its_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--train", "--out", str(tmp_path), "--images", "200", "--epochs", "1", "--quiet"]) == 0
    *tables, last = capsys.readouterr().out.splitlines()
    summary = json.loads(last)
    folder = Path(summary["folder"])
    assert summary["score"]["unreadable"] == 3 and summary["score"]["listed"] == 103
    assert pq.read_table(folder / "scores").num_rows == 103
    for name in ("data/manifest.parquet", "model/model.json", "evaluation/metrics.json"):
        assert (folder / name).exists()
    assert any(str(folder / "scores") in line for line in tables)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("exec 0<&- 1>&- 2>&-;", 0, ""),
        ("exec 2>&-;", 0, ""),
        ("export PYTHONOPTIMIZE=2;", 0, ""),
        ("exec 1>/dev/full;", 2, "cannot write to standard output: No space left on device. All files are written."),
        ("exec 2>/dev/full;", 0, ""),
    ],
    ids=["no streams", "no log", "no docstrings", "no space for the output", "no space for the log"],
)
def test_streams_and_docstrings_that_are_missing_stop_nothing(
    drawn: Path, tmp_path: Path, shell: str, code: int, said: str
) -> None:
    """The next file that a process opens gets the number of a closed stream, and all that is written to it."""
    command = [sys.executable, "-m", "crackvae", "partition", "--images", str(drawn), "--out", str(tmp_path / "data")]
    command += ["--external", "0,0"]
    env = os.environ | {"PYTHONPATH": str(HOUSE)}
    done = subprocess.run(["bash", "-c", f'{shell} exec "$@"', "", *command], capture_output=True, text=True, env=env)
    assert done.returncode == code and "Traceback" not in done.stderr and said in done.stderr
    assert pq.read_table(tmp_path / "data" / "manifest.parquet").num_rows == 300
