"""Regular expressions of RE2: Python's results where both agree, always in linear time."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_helpers import model

import tilth
from tilth.onnx.host.regex import compiled

TEXTS = st.text("ab-\n", min_size=1, max_size=8)  # Python 3.11 has no `\B` in ""


def expressions() -> st.SearchStrategy[str]:
    """Expressions that mean the same to Python's `re`."""
    atoms = st.sampled_from(["a", "b", "-", ".", "[ab]", "[^a]", "[a-b-]", "\\n", "\\w", "\\W"])
    edges = st.sampled_from(["^", "\\b", "\\B", "\\A", ""])
    times = st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}", "*?", "+?", "??", "{1,2}?"])

    def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return (
            st.builds("({})".format, inner)
            | st.builds("(?:{}|{})".format, inner, inner)
            | st.builds("(?:{}){}".format, inner, times)
            | st.builds("{}{}".format, inner, inner)
        )

    return st.recursive(atoms | edges, grown, max_leaves=6)


@settings(max_examples=300)
@given(expressions(), TEXTS)
def test_matches_are_those_of_pythons_re(expression, text):
    pattern, theirs = compiled(expression), re.compile(expression)
    assert pattern.fullmatch(text) == (theirs.fullmatch(text) is not None)
    found, right = next(pattern.finditer(text), None), theirs.search(text)
    assert found == (right and right.span())


@pytest.mark.parametrize(
    ("expression", "matching", "other"),
    [
        (r"\d+\s\w", "42 x", "\u0663 x"),  # ASCII only
        (r"[[:alpha:]][[:^digit:]]", "ab", "a1"),
        (r"[\d\]x-]+", "1]x-", "a"),
        (r"[^\D5]", "4", "5"),
        (r"\p{Lu}\pL\PL", "Éa1", "ea1"),
        (r"\p{^L}", "1", "a"),
        (r"\x41\x{1F600}\101?\t", "A\U0001f600\t", "A"),
        (r"\Qa.b\E+", "a.bb", "aabb"),
        (r"\Q()", "()", ""),
        (r"(?i)straSSe[a-c]|x", "STRASSEB", "y"),
        (r"(?i:a)b", "Ab", "AB"),
        (r"(?is-s:a.)", "Ab", "a\n"),
        (r"(?s).", "\n", ""),
        (r"(?m)a$\n^b", "a\nb", "ab"),
        (r"a$", "a", "a\n"),  # the end is the end
        (r"(?P<x>a)(?<y>b)\z", "ab", "aab"),
        (r"a{2,3}", "aaa", "aaaa"),
        (r"a{,2}{", "a{,2}{", "aa"),  # braces that are no repetition
        (r"(?U)a+", "aa", "b"),
        (r"\0\a\.", "\0\a.", "\0\ax"),
        ("", "", "a"),
        (r"a|", "", "b"),
        (r"|a", "a", "aa"),
        ("é+", "éé", "e"),
    ],
)
def test_the_syntax_of_re2(expression, matching, other):
    assert compiled(expression).fullmatch(matching)
    assert not compiled(expression).fullmatch(other)


def test_as_few_as_possible_is_preferred_on_request():
    assert next(compiled("a+?").finditer("aaa")) == (0, 1)
    assert next(compiled("(?U)a+").finditer("aaa")) == (0, 1)
    assert next(compiled("(?U)a+?").finditer("aaa")) == (0, 3)


@pytest.mark.parametrize("expression", [
    *("(", ")", "[a", "[b-a]", "*", "a**", "a{2}{3}", "a{2,1}", "a{1001}", "\\", "\\q", "\\1"),
    *("(?=a)", "(?<=a)", "(?P<1>a)", "(?x)a", "(?-)a", "(?", "[[:none:]]", "\\pX", "\\p{Greek}"),
    *("\\xZZ", "\\x{110000}", "a{900}{9}", "((((a{30}){30}){30}){30})", "((){99}){999}", "("*2000),
])  # fmt: skip
def test_what_is_no_expression_or_too_big_is_refused(expression):
    with pytest.raises((ValueError, RecursionError)):
        compiled(expression)


@pytest.mark.parametrize("expression", ["(a+)+b", "(a|a)*b", "(a|aa)+$", "(.*)*x", "(a?){40}a{40}"])
def test_hostile_expressions_take_linear_time(expression):
    start = time.process_time()
    assert compiled(expression).fullmatch("a" * 60 + "!") is False
    assert next(compiled(expression).finditer("c" * 60 + "!"), (0, 0)) in [(0, 0), (61, 61)]
    assert time.process_time() - start < 2


def test_a_broken_expression_is_told_with_the_name_of_its_node():
    proto = model('g (string[1] s) => (bool[1] y) { [m] y = RegexFullMatch <pattern = "(a"> (s) }')
    with pytest.raises(tilth.ModelError, match=r"'m'.*is not closed"):
        tilth.load(proto)({"s": np.array(["a"], object)})


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr("tilth.onnx.host.regex._MOST_KNOWN_THREADS", 50)
    pattern = compiled("(?:a|b){3}[ab]*x")
    text = "abba" * 20
    assert pattern.fullmatch(text + "x")
    assert list(pattern.finditer(text + "x" + text)) == [(0, 81)]
    assert len(pattern._known) <= 50
