"""The documentation: each command in it is run, or at least one that this version knows; each name in it exists.

A block that is indented or fenced is a list of commands, a piece of a settings file, or neither. Commands of `monitor`
are run in a scratch folder, against a SeedLink server that plays a made-up earthquake, wherever what they need can be
had there; the rest is checked word by word: subcommands, options, make targets, files, units, and is run by the tests
that `ELSEWHERE` names.
"""

import functools
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import typer
import yaml
from typer.testing import CliRunner

from monitor.cli import application
from monitor.config import ConfigError, read_settings
from monitor.metrics import Metrics
from monitor.settings import Settings
from monitor.stations import group_channels
from monitor.validation import section_of
from tests.test_cli import write_mseed
from tests.waveforms import earthquake, segments

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
DOCUMENTS = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in PAGES]

# What a page may ask a reader to type, beside what this project brings.
PROGRAMS = frozenset(
    "apt apt-get awk buildah cat cd chmod chown chronyc cp curl df dmesg docker dpkg dpkg-reconfigure du echo git "
    "grep install journalctl jq ls mkdir mosquitto mosquitto_passwd mosquitto_pub mosquitto_sub nano openssl pip "
    "podman prometheus promtool python python3 rm rsync scp sha256sum slinktool sqlite3 ss ssh systemctl systemd- "
    "analyze systemd-creds tail tar tee test timedatectl umask vcgencmd watch xdg-open zcat".split()
)
OURS = frozenset({"monitor", "make", "sudo", "deploy/install.sh", "monitor-setup", "install.sh"})
# Before the program that is meant.
PREFIXES = frozenset({"sudo", "env", "time", "nice", "exec"})
# Written for what the reader has to put there.
PLACEHOLDER = re.compile(r"FILE…|…")


class Block(NamedTuple):
    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Indented and fenced blocks of a page; those within a list are indented further."""
    name = page.relative_to(ROOT).as_posix()
    found: list[str] = []
    began, fence, blank = 0, "", True
    for number, line in enumerate([*page.read_text().splitlines(), ""], 1):
        opened = re.match(r"\s*(```|~~~)", line)
        if opened and not fence:
            fence, began, found = opened[1], number + 1, []
        elif fence:
            if line.strip().startswith(fence):
                yield Block(name, began, "\n".join(found))
                fence, found = "", []
            else:
                found.append(line)
        elif line.startswith("    ") and (found or blank):
            began = began if found else number
            found.append(line)
        elif found and not line.strip():
            found.append("")
        if not fence and found and line.strip() and not line.startswith("    ") and not opened:
            yield Block(name, began, _dedent(found))
            found = []
        blank = not line.strip()
    if found:
        yield Block(name, began, _dedent(found))


def _dedent(lines: list[str]) -> str:
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[indent:] for line in lines).rstrip()


def is_shell(text: str) -> bool:
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    words = [word for word in first.split() if "=" not in word]
    return bool(words) and (words[0] in PROGRAMS | OURS or words[0].startswith((".venv/", "/opt/monitor/", "deploy/")))


def is_toml(text: str) -> bool:
    return bool(re.match(r"(#.*\n)*\[", text)) and "=" in text


def commands(text: str) -> list[list[str]]:
    """The words of each command of a block; pipes and && between them."""
    found: list[list[str]] = [[]]
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        for word in lexer:
            if set(word) <= set("|&;()"):
                found.append([])
            else:
                found[-1].append(word)
        found.append([])
    return [_bare(words) for words in found if _bare(words)]


def _bare(words: list[str]) -> list[str]:
    """Without what stands before the program: variables, sudo."""
    at = 0
    while at < len(words) and (words[at] in PREFIXES or re.match(r"[A-Za-z_]\w*=", words[at])):
        at += 1
    return words[at:]


SHELL = [block for page in PAGES for block in blocks(page) if is_shell(block.text)]
TOML = [block for page in PAGES for block in blocks(page) if is_toml(block.text)]
SPANS = [(page, span) for page in PAGES for span in re.findall(r"`([^`\n]+)`", page.read_text())]


@functools.cache
def cli() -> Any:
    return typer.main.get_command(application())


def test_there_is_something_to_check() -> None:
    assert len(SHELL) > 25
    assert len(TOML) >= 4
    found = Block("x", 1, "make demo  # a comment; more | of it\n. ./x && sudo A=1 monitor replay a 'b c' > d")
    assert commands(found.text) == [
        ["make", "demo"],
        [".", "./x"],
        ["monitor", "replay", "a", "b c", ">", "d"],
    ]


# -- word by word ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_command_is_one_that_there_is(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in commands(block.text):
        wrong = wrong_with(words)
        assert wrong is None, f"{block}: {' '.join(words)}: {wrong}"


def wrong_with(words: list[str]) -> str | None:
    """What this version does not know of a command; None where it knows all."""
    program, *arguments = words
    name = Path(program).name
    if name == "monitor":
        return wrong_with_monitor(arguments)
    if name == "make":
        return wrong_with_make(arguments)
    if name in {"install.sh", "monitor-setup"}:
        return wrong_with_install(arguments)
    if name.startswith("python"):
        return wrong_with_python(arguments)
    if name == "systemctl":
        units = [word for word in arguments if "monitor" in word]
        return next((f"there is no unit {unit}" for unit in units if not is_unit(unit)), None)
    if program not in PROGRAMS and not (ROOT / program).is_file():
        return f"{program} is no program that a reader has"
    return next((f"{word} is missing" for word in arguments if is_missing_file(word)), None)


def wrong_with_monitor(arguments: list[str]) -> str | None:
    command, path = cli(), "monitor"
    while hasattr(command, "commands"):
        if not arguments:
            return None
        word, *arguments = arguments
        if word.startswith("-"):
            return None if word in {"--help", "--version"} else f"{path} has no option {word}"
        if word in {"COMMAND"}:
            return None
        if word not in command.commands:
            return f"{path} has no command {word}"
        command, path = command.commands[word], f"{path} {word}"
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.partition("=")[0] for word in arguments if re.match(r"--[a-z]", word)]
    return next((f"{path} has no option {word}" for word in given if word not in options | {"--help"}), None)


def wrong_with_make(arguments: list[str]) -> str | None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", text, flags=re.MULTILINE))
    for word in arguments:
        variable, equals, _ = word.partition("=")
        if equals and f"$({variable})" not in text and not re.search(rf"^{variable} \?=", text, flags=re.MULTILINE):
            return f"the Makefile knows no {variable}"
        if not equals and not word.startswith("-") and word not in targets:
            return f"there is no target {word}"
    return None


@functools.cache
def install_options() -> frozenset[str]:
    return frozenset(re.findall(r"--[a-z][a-z-]+", (ROOT / "deploy" / "install.sh").read_text()))


def wrong_with_install(arguments: list[str]) -> str | None:
    given = [word for word in arguments if word.startswith("--")]
    return next((f"install.sh has no option {word}" for word in given if word not in install_options()), None)


def wrong_with_python(arguments: list[str]) -> str | None:
    if arguments[:1] == ["-m"]:
        module = arguments[1]
        return None if importlib.util.find_spec(module) else f"there is no module {module}"
    script = next((word for word in arguments if not word.startswith("-")), None)
    return f"{script} is missing" if script and script.endswith(".py") and not (ROOT / script).is_file() else None


def is_unit(word: str) -> bool:
    name = re.sub(r"@[\w*-]+", "@", word.removesuffix(".service"))
    return (ROOT / "systemd" / f"{name}.service").is_file() or name == "monitor*"


def is_missing_file(word: str) -> bool:
    """It says that it is one of this project's files, and is not."""
    folder = word.partition("/")[0]
    if not re.fullmatch(r"[\w.@/-]+", word) or "/" not in word or folder not in OUR_FOLDERS:
        return False
    return not (ROOT / word).exists() and not word.startswith(("monitor/v1", "monitor/status"))


OUR_FOLDERS = frozenset({"benchmarks", "deploy", "docs", "monitor", "systemd", "tests", "train"})


@pytest.mark.parametrize("block", TOML, ids=str)
def test_a_piece_of_settings_is_accepted(block: Block, tmp_path: Path) -> None:
    tables = tomllib.loads(block.text)
    path = tmp_path / "monitor.toml"
    path.write_text(block.text)
    try:
        read_settings(path, environment={})
    except ConfigError as error:
        # A file that only the reader has, or a table whose rest is in another piece.
        rest = [str(p) for p in error.problems if not re.search(r"missing|must be set|cannot be read", str(p))]
        assert not rest, f"{block}: {rest}"
    assert tables


@pytest.mark.parametrize("page", DOCUMENTS)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} is missing"
        if anchor:
            assert anchor in headings(linked), f"{target}: no such heading"


def headings(page: Path) -> set[str]:
    """As the usual renderers make anchors of them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).strip().replace(" ", "-") for text in found}


@pytest.mark.parametrize("page", DOCUMENTS)
def test_files_that_are_named_are_there(page: Path) -> None:
    for span in spans(page):
        for word in span.split():
            assert not is_missing_file(word.rstrip(".,;:")), f"`{span}`: missing"


@pytest.mark.parametrize("page", DOCUMENTS)
def test_keys_that_are_named_are_settings(page: Path) -> None:
    for span in spans(page):
        for table, rest in re.findall(r"\[\[?([a-z]+)\]?\](?: ([a-z_]+))?", span):
            if table in {"obspy", "plot"}:  # extras of pip
                continue
            keys = settings_keys().get(table)
            assert keys is not None, f"`{span}`: no table [{table}]"
            assert not rest or rest in keys, f"`{span}`: [{table}] has no {rest}"
        for variable in re.findall(r"\bMONITOR_([A-Z_0-9]+)", span):
            table, _, key = variable.lower().partition("__")
            assert not key or re.sub(r"^\d+__", "", key) in settings_keys().get(table, ()), f"`{span}`: no such key"


@functools.cache
def settings_keys() -> dict[str, frozenset[str]]:
    found = {}
    for field in msgspec.structs.fields(Settings):
        kind = section_of(field.type)
        assert kind is not None
        found[field.name] = frozenset(key.name for key in msgspec.structs.fields(kind))
    return found


def test_the_page_about_settings_has_each_table() -> None:
    text = (ROOT / "docs" / "configure.md").read_text()
    for table in settings_keys():
        assert f"| `[{table}]` |" in text or f"| `[[{table}]]` |" in text, f"[{table}] is missing"


@pytest.mark.parametrize("page", DOCUMENTS)
def test_metrics_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for name in set(re.findall(r"\bmonitor_[a-z_]+\b", text)):
        assert name in metric_names(), f"{name}: no such metric"


@functools.cache
def metric_names() -> frozenset[str]:
    metrics = Metrics()
    metrics.add_server("a:1")
    metrics.add_queue("packets")
    (group,) = group_channels(s.channel_id for s in segments(QUAKE[:, :10], rate=100.0))
    metrics.add_station(group)
    metrics.build(version="1", python="3")
    samples = re.findall(r"^(monitor_\w+)", metrics.exposition()[1].decode(), flags=re.MULTILINE)
    declared = re.findall(r"^# TYPE (monitor_\w+)", metrics.exposition()[1].decode(), flags=re.MULTILINE)
    return frozenset([*samples, *declared])


@pytest.mark.parametrize("page", DOCUMENTS)
def test_alerts_that_are_named_exist(page: Path) -> None:
    # CamelCase words in code spans are alerts, but for systemd's and others' settings.
    alerts = set()
    for rules in (ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"):
        for group in yaml.safe_load(rules.read_text())["groups"]:
            alerts |= {rule["alert"] for rule in group["rules"] if "alert" in rule}
    prefixes = {re.match(r"[A-Z][a-z]+", alert)[0] for alert in alerts}  # type: ignore[index]
    for span in spans(page):
        if re.fullmatch(r"(?:[A-Z][a-z]+){2,}", span) and re.match(r"[A-Z][a-z]+", span)[0] in prefixes:  # type: ignore[index]
            assert span in alerts, f"`{span}`: no such alert"


@pytest.mark.parametrize("page", DOCUMENTS)
def test_commands_in_the_text_are_known(page: Path) -> None:
    for span in spans(page):
        first = span.split()[0] if span.split() else ""
        if first not in OURS - {"monitor"} and not re.match(r"monitor [a-z]+( |$)", span):
            continue
        for words in commands(PLACEHOLDER.sub("X", span)):
            wrong = wrong_with(words)
            assert wrong is None, f"`{span}`: {wrong}"


def spans(page: Path) -> list[str]:
    return [span for where, span in SPANS if where == page]


# -- who runs it -------------------------------------------------------------------------------------------------------

# Pages that a newcomer follows on a fresh Debian: everything but what needs a checkout with its environment.
FOLLOWED = frozenset("configure coral install operate security uninstall upgrade".split())
# Page and command -> the test that runs it; or why none does.
ELSEWHERE = {
    r"docker: (deploy/compose/setup\.sh|docker compose|docker run|mosquitto_sub) ": "tests/field/compose.py",
    r"docker: (docker build|docker buildx build|docker load|buildah bud) ": "tests/field/image.py",
    r"docker: git pull$": "tests/field/pages.py",
    r"\w+: make audit$": "tests/test_sbom.py",
    r"\w+: make sbom$": "tests/test_sbom.py",
    r"\w+: make chaos( |$)": "tests/chaos/__main__.py",
    r"\w+: make deb$": "tests/field/pages.py",
    r"\w+: make edgetpu ": "tests/test_device.py",
    # It asks an index for the newest versions: what it gives is another thing every day.
    r"security: make lock ": None,
}


def test_each_command_is_run_by_somebody() -> None:
    unused = set(ELSEWHERE)
    for block in SHELL:
        page = Path(block.page)
        for words in commands(block.text) if page.parent.name == "docs" else []:
            command = f"{page.stem}: {shlex.join(words)}"
            found = {pattern for pattern in ELSEWHERE if re.match(pattern, command)}
            unused -= found
            runs_here = words[0] == "monitor" and here(words, Place(Path(), 1)) is not None
            followed = page.stem in FOLLOWED and words[0] != "make"
            assert found or runs_here or followed, f"{block}: nobody runs {shlex.join(words)}"
    # A page that is made by its target need not be there.
    assert unused <= {pattern for pattern in ELSEWHERE if "chaos" in pattern}
    for path in filter(None, ELSEWHERE.values()):
        assert (ROOT / path).is_file(), path
    text = (ROOT / "tests" / "field" / "pages.py").read_text()
    assert all(f'"{name}.md"' in text for name in FOLLOWED)


# -- run ---------------------------------------------------------------------------------------------------------------

QUAKE = earthquake(rate=100.0, p_s=40.0, s_minus_p=4.0, seconds=75.0, snr=12.0, seed=1)
# What the documentation calls its things, and what they are called here.
NAMES = {"FILE…": "quake.mseed", "day.mseed": "quake.mseed", "/archive/2024/XX": "archive", "XX.AB*": "XX.AB*"}
# A moment of the recording, for one of another day.
OTHER_DAY = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?Z?")
SERVER = re.compile(r"192\.168\.\d+\.\d+|\w+\.local|localhost")
# These must have been run: what nobody can run must not creep in unseen.
MUST_RUN = frozenset({"replay", "streams", "check", "model info", "model verify", "model bench", "serve", "run"})
# Never ends by itself: started, asked for its first line, and ended.
ENDLESS = frozenset({"run", "serve"})


class Place(NamedTuple):
    folder: Path
    port: int


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A folder with what the documentation speaks of, and a server that plays it."""
    folder = tmp_path_factory.mktemp("reader")
    write_mseed(folder / "quake.mseed", QUAKE)
    (folder / "archive").mkdir()
    (folder / "archive" / "quake.mseed").write_bytes((folder / "quake.mseed").read_bytes())
    command = [sys.executable, "-m", "monitor.cli", "serve", "quake.mseed", "--port", "0", "--preload", "inf"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.search(r"port (\d+)", server.stdout.readline())
        assert found
        yield Place(folder, int(found[1]))
        server.terminate()


def monitor_commands() -> list[list[str]]:
    """Each command of `monitor`, in a block or in the text, once."""
    found: dict[str, list[str]] = {}
    for text in [block.text for block in SHELL] + [span for _, span in SPANS if span.startswith("monitor ")]:
        for words in commands(text):
            if words[0] == "monitor" and len(words) > 1 and words[1] in cli().commands:
                found.setdefault(shlex.join(words), words)
    return list(found.values())


def here(words: list[str], place: Place) -> list[str] | None:
    """The command with this place's names for the documentation's; None where something is not to be had here."""
    made: list[str] = []
    for word in words:
        if SERVER.fullmatch(word):
            made.append(f"127.0.0.1:{place.port}")
        elif OTHER_DAY.fullmatch(word):
            made.append("2024-05-06T07:08:20Z" if "--start" in made[-1:] else "2024-05-06T07:09:20Z")
        else:
            made.append(NAMES.get(word, word))
    elsewhere = [word for word in made[1:] if re.search(r"…|^[A-Z]{3,}$|/etc/|example\.org", word)]
    alone = len(made) == 2 and made[1] not in {"check", "demo"}  # named, not shown
    return None if elsewhere or alone or "edgetpu" in made else made


def subcommand(words: list[str]) -> str:
    return " ".join(words[1:3]) if words[1] == "model" else words[1]


def settings_file(place: Place) -> Path:
    path = place.folder / "monitor.toml"
    path.write_text(
        f'[[seedlink]]\nhost = "127.0.0.1"\nport = {place.port}\nstations = ["XX.ABC"]\n'
        '[http]\nport = 0\n[page]\nport = "none"\n[state]\ndirectory = "state"\n[archive]\nevents = false\n'
    )
    return path


def test_commands_of_monitor_do_what_they_are_shown_for(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.folder)
    settings_file(place)
    run = set()
    for words in monitor_commands():
        if subcommand(words) in ENDLESS | {"demo"}:
            continue
        made = here(words, place)
        if made is None:
            continue
        target, arguments = None, made[1:]
        if ">" in arguments:
            at = arguments.index(">")
            target, arguments = arguments[at + 1], arguments[:at]
        if "-" in arguments:
            continue  # in a pipe: see below
        if arguments[0] == "model" and arguments[1] == "bench":
            arguments += ["--repeats", "1"]
        done = CliRunner().invoke(application(), arguments)
        said = f"{shlex.join(words)}:\n{done.output}\n{capfd.readouterr()}"
        # 1: it ran and says what does not answer, such as a clock that nobody keeps in a container.
        assert done.exit_code == 0 or ("--connect" in arguments and done.exit_code == 1), said
        if target is not None:
            assert done.stdout, said
            if target != "monitor.toml":
                (place.folder / target).write_text(done.stdout)
        run.add(subcommand(words))
    assert run >= MUST_RUN - ENDLESS, f"nobody ran {MUST_RUN - ENDLESS - run}"


def test_commands_that_do_not_end_start_and_end_when_asked(place: Place) -> None:
    settings_file(place)
    run = set()
    for words in monitor_commands():
        if subcommand(words) not in ENDLESS or "--port" in words:
            continue
        made = here(words, place)
        if made is None or subcommand(words) in run:
            continue
        # The documentation's port may be in use here.
        arguments = [*made[1:], "--port", "0"] if made[1] == "serve" else made[1:]
        command = [sys.executable, "-m", "monitor.cli", *arguments]
        both = subprocess.STDOUT
        with subprocess.Popen(command, cwd=place.folder, stdout=subprocess.PIPE, stderr=both, text=True) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            while made[1] == "run" and first and "listening to" not in first:
                first = process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=120)[0]
        assert process.returncode == 0, f"{shlex.join(words)}:\n{first}{rest}"
        run.add(subcommand(words))
    assert run == ENDLESS


@pytest.mark.needs("jq")
def test_a_pipe_works_as_it_stands(place: Place) -> None:
    lines = [line for block in SHELL for line in block.text.splitlines() if "| monitor " in line]
    assert lines
    program = place.folder / "bin" / "monitor"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m monitor.cli "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), os.environ.get("PATH", os.defpath)])
    for line in lines:
        for old, new in NAMES.items():
            line = line.replace(old, new)  # noqa: PLW2901
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=place.folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}:\n{done.stderr}"
        assert done.stdout


def test_scripts_that_are_named_say_what_they_do() -> None:
    """Those of this project's own Python scripts that take `--help`."""
    seen: dict[str, Any] = {}
    for block in SHELL:
        for words in commands(block.text):
            scripts = [w for w in words[1:2] if w.endswith(".py")]
            if Path(words[0]).name.startswith("python") and scripts and scripts[0] not in seen:
                text = (ROOT / scripts[0]).read_text()
                seen[scripts[0]] = "argparse" in text or "typer" in text
    for script, has_help in seen.items():
        if has_help:
            done = subprocess.run([sys.executable, str(ROOT / script), "--help"], capture_output=True, check=False)
            assert done.returncode == 0, script
