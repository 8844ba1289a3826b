"""What is typed arrives, in whatever locale."""

from __future__ import annotations

import os

import pytest

from tests.terminal import on_terminal, read_until
from tinyllm.cli import typed

ECHO = """
import sys
from tinyllm.cli import typed
{}
for line in typed.lines(sys.stdin, sys.stdout, sys.stderr):
    print("got", ascii(line))
"""
NO_LOCALE = "typed._reads = lambda name, encoding: False"  # as where there is no locale of UTF-8


SETTINGS = ["LC_ALL=C", "LC_ALL=POSIX", "LC_ALL=xx_YY.UTF-8", "LC_ALL=C.UTF-8", "LANG=C"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_chinese_can_be_typed_and_corrected_in_every_locale(setting):
    name, _, value = setting.partition("=")
    with on_terminal(["-c", ECHO.format("")], {name: value}) as (terminal, _):
        read_until(terminal, typed.PROMPT)
        os.write(terminal, "你好吗\x7f\r".encode())  # the key removes a character, not a byte
        assert b"README" not in read_until(terminal, "got " + ascii("你好"))


def test_without_a_locale_of_the_encoding_lines_are_read_without_readline():
    with on_terminal(["-c", ECHO.format(NO_LOCALE)], {"LC_ALL": "C"}) as (terminal, _):
        read_until(terminal, typed.PROMPT)
        os.write(terminal, "你好\r".encode())
        assert b"README" not in read_until(terminal, "got " + ascii("你好"))


def test_a_tab_is_a_character():
    with on_terminal(["-c", ECHO.format("")], {"LC_ALL": "C.UTF-8"}) as (terminal, _):
        read_until(terminal, typed.PROMPT)
        os.write(terminal, b"READ\t\r")
        read_until(terminal, r"got 'READ\t'")
