"""The table of commands: its functions are there and take the options that the parser gives them."""

import argparse
import inspect
from importlib import import_module

import pytest

from cosmos_launch.cli import data_options, options
from cosmos_launch.cli.commands import COMMANDS, Command


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_function_takes_the_options_of_its_command(command: Command):
    parser = argparse.ArgumentParser(add_help=False)
    command.add_options(parser)
    names = {action.dest for action in parser._actions}
    if command.starts_ranks:
        names.add("invocation")
    module, _, function = command.function.partition(":")
    assert set(inspect.signature(getattr(import_module(module), function)).parameters) == names


def test_all_options_are_those_of_a_command():
    named = [*vars(options).items(), *vars(data_options).items()]
    written = {found for name, found in named if inspect.isfunction(found) and not name.startswith("_")}
    assert written == {command.add_options for command in COMMANDS}


def test_no_command_is_there_twice():
    names = [command.name for command in COMMANDS]
    assert sorted(set(names)) == sorted(names)
