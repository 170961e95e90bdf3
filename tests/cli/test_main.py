"""Global options, lazy commands, commands of plugins, and how errors leave."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from polykit import __version__, cli
from polykit.cli.group import COMMANDS

COMMAND = """
    from polykit.api import Entry, hookimpl

    @hookimpl
    def polykit_entries():
        return [Entry("command", "{name}", "{target}:{attribute}", "greets politely")]
"""
APP = """
    import typer
    app = typer.Typer()

    @app.command()
    def one(name: str, loud: bool = False):
        print(name.upper() if loud else name)

    @app.command()
    def two():
        print("two")
"""
FUNCTION = """
    def app(name: str, times: int = 1):
        print(" ".join([name] * times))
"""
CLICK = """
    import click

    @click.command()
    @click.argument("name")
    @click.option("--times", type=int, default=1)
    def app(name, times):
        if name == "nobody":
            raise click.ClickException("nobody is there")
        print(" ".join([name] * times))
"""


def install_command(site, source, *, distribution="greeter", name="greet"):
    target = f"{distribution}_target"
    entries = COMMAND.format(name=name, target=target, attribute="app")
    site.install(distribution, entries, **{target: source})


def process(*arguments, **more):
    line = [sys.executable, *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, **more)


def imported(done):
    return set(re.findall(r"import time:.*\|\s+(\S+)$", done.stderr, re.MULTILINE))


@pytest.mark.parametrize("line", [["--help"], ["plugins", "list"], ["--version"]])
def test_quick_commands_import_no_torch(line):
    done = process("-X", "importtime", "-m", "polykit", *line)
    assert done.returncode == 0
    heavy = {"torch", "pandas", "numpy", "sklearn", "matplotlib", "torchvision", "captum"}
    assert not imported(done) & heavy


def test_help_needs_no_registry_unless_somebody_else_has_plugins(site):
    line = ("-X", "importtime", "-m", "polykit", "--help")
    assert "pydantic" not in imported(process(*line))
    install_command(site, "raise SystemExit('imported')")
    done = process(*line, env=site.environment)
    assert done.returncode == 0
    assert "greets politely (greeter)" in done.stdout
    assert "greeter_target" not in imported(done)


def test_module_and_script_are_the_same_program():
    done = process("-m", "polykit", "--version")
    assert (done.returncode, done.stdout) == (0, f"polykit {__version__}\n")


def test_help_lists_every_command_with_its_summary(polykit):
    done = polykit("--help")
    assert done.code == 0
    for name, summary in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", done.out, re.MULTILINE)


@pytest.mark.parametrize("command", [*COMMANDS, "plugins list", "plugins new", "runs show"])
def test_every_command_has_help(polykit, command):
    done = polykit(*command.split(), "--help")
    assert done.code == 0
    assert "Usage" in done.out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["anlyze"], "no command is called 'anlyze'. Did you mean 'analyze'?"),
        (["-p", "digits", "plugins", "list"], "-p no:NAME blocks a plugin"),
        (["-p", "no:metrisc", "plugins", "list"], "Did you mean 'metrics'?"),
        (["-v", "-q", "plugins", "list"], "exclude each other"),
        (["plugins", "list", "--kind", "prunner"], "Did you mean 'pruner'?"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(polykit, line, words):
    done = polykit(*line)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"error: [^\n]*\n", done.err)
    assert words in done.err


def test_unknown_option_exits_2(polykit):
    done = polykit("plugins", "list", "--colour")
    assert (done.code, done.out) == (2, "")
    assert "--colour" in done.err


@pytest.mark.parametrize("source", [FUNCTION, CLICK], ids=["function", "click"])
def test_command_of_a_plugin(site, polykit, source):
    install_command(site, source)
    done = polykit("greet", "Ann", "--times", "2")
    assert (done.code, done.out) == (0, "Ann Ann\n")
    assert polykit("greet", "Ann", "--times", "x").code == 2
    assert polykit("greet", "--help").code == 0


def test_typer_app_of_a_plugin(site, polykit):
    install_command(site, APP)
    assert polykit("greet", "one", "Ann", "--loud").out == "ANN\n"
    assert polykit("greet", "two").out == "two\n"
    assert polykit("greet", "one").code == 2


def test_click_errors_keep_their_words(site, polykit):
    install_command(site, CLICK)
    done = polykit("greet", "nobody")
    assert done.code == 1
    assert "nobody is there" in done.err


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError"),
        ("app = 7", "no Typer app, Click command or function"),
        ("def app(): raise ValueError('oh no')", "'greet' of greeter is broken: it raised Value"),
    ],
)
def test_broken_command_exits_3_and_harms_nobody(site, polykit, source, words):
    install_command(site, source)
    done = polykit("greet")
    assert done.code == 3
    assert words in done.err
    assert "Traceback" not in done.err
    assert polykit("plugins", "list").code == 0
    assert "Traceback" in polykit("-v", "greet").err


def test_two_commands_of_one_name_must_be_told_apart(site, polykit):
    install_command(site, FUNCTION, distribution="one")
    install_command(site, APP, distribution="two")
    done = polykit("greet", "Ann")
    assert done.code == 2
    assert "one:greet or two:greet" in done.err
    assert polykit("one:greet", "Ann").out == "Ann\n"
    assert "two:greet" in polykit("--help").out


def test_plugin_cannot_replace_a_command(site, polykit):
    install_command(site, FUNCTION, name="plugins")
    assert polykit("plugins", "list").code == 0
    assert polykit("greeter:plugins", "Ann").out == "Ann\n"


def test_broken_plugin_is_mentioned_where_a_command_is_missing(site, polykit):
    site.install("bad", "raise ValueError('no good')")
    done = polykit("greet")
    assert done.code == 2
    assert "warning: plugin plug of bad is broken" in done.err
    assert "no good" in done.err


@pytest.mark.parametrize("how", ["option", "environment"])
def test_plugins_can_be_left_out(site, polykit, monkeypatch, how):
    install_command(site, FUNCTION)
    option = ["-p", "no:greeter"] if how == "option" else []
    if how == "environment":
        monkeypatch.setenv("POLYKIT_DISABLE", "something, greeter")
    done = polykit(*option, "greet", "Ann")
    assert done.code == 2
    assert "no command is called 'greet'" in done.err
    assert "blocked: plug of greeter" in polykit(*option, "plugins", "list").out


def raising(monkeypatch, error):
    def load(name):
        raise error

    monkeypatch.setattr("polykit.cli.group._own", load)


def test_interrupt_exits_130(monkeypatch, polykit):
    raising(monkeypatch, KeyboardInterrupt("interrupted; continue with: polykit …"))
    done = polykit("analyze")
    assert (done.code, done.out) == (130, "")
    assert done.err == "interrupted; continue with: polykit …\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    raising(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.app(["analyze"], prog_name="polykit")


def test_closed_pipe_is_no_error():
    line = f"{sys.executable} -m polykit plugins list --json | {sys.executable} -c ''"
    done = subprocess.run(
        ["bash", "-c", line + "; exit ${PIPESTATUS[0]}"], capture_output=True, check=False
    )
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
