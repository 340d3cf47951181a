"""How errors phrase what is not known."""

from __future__ import annotations

from robustbench_coss.errors import did_you_mean, kind_and_line, one_line, unknown_name

KNOWN = ("byol", "co-byol", "dino")


def test_the_hint_names_what_is_near_and_ends_with_what_is_always_said() -> None:
    assert did_you_mean("dinoo", KNOWN) == "did you mean dino?"
    assert did_you_mean("dinoo", KNOWN, "there are 3") == "did you mean dino? there are 3"


def test_where_nothing_is_near_only_what_is_always_said_is_left() -> None:
    assert did_you_mean("xxxx", KNOWN) == ""
    assert did_you_mean("xxxx", KNOWN, "there are 3") == "there are 3"


def test_an_unknown_name_is_answered_with_all_names_where_none_is_near() -> None:
    assert str(unknown_name("method", "xxxx", KNOWN, more="")) == (
        "unknown method 'xxxx'; known: byol, co-byol, dino"
    )
    assert str(unknown_name("method", "xxxx", (), more="")) == "unknown method 'xxxx'; known: none"


def test_what_an_exception_says_is_cut_to_one_line_and_never_empty() -> None:
    assert one_line(ValueError(" a\n  b\tc ")) == "a b c"
    assert one_line(ValueError("x" * 300)) == "x" * 200
    assert one_line(ValueError("abcdef"), 3) == "abc"
    assert one_line(ValueError(" \n")) == "ValueError"
    assert kind_and_line(KeyError("size")) == "KeyError: 'size'"
    assert kind_and_line(OSError()) == "OSError"
