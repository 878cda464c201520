"""A scorer that can't run from its text alone is refused at `register`, with names and lines."""

from __future__ import annotations

import ast
import functools
import inspect
import json
import subprocess
import symtable
import sys
import textwrap
import uuid
from collections.abc import Iterator
from math import pow
from pathlib import Path

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Feedback
from mlflow.exceptions import MlflowException
from mlflow.genai.scorers import Safety, list_scorers, make_scorer_ensemble
from mlflow.genai.scorers import scorer as scorer_decorator
from mlflow.genai.scorers.scorer_utils import recreate_function
from mlflow.tracking import MlflowClient

from running import RunningVedette
from vedette.client.findings import Finding
from vedette.client.own_modules import own_modules
from vedette.client.registration import serialize
from vedette.client.self_contained import PROVIDED, check_stored

LIMIT = 100


def anything(_module: str) -> None:
    """No objection to any import."""


def names(body: str, signature: str = "(outputs)") -> list[tuple[int, str]]:
    """(line, message) of what is found in a stored body."""
    found = check_stored("probe", textwrap.dedent(body).strip(), signature, objection=anything)
    return [(one.line, one.message) for one in found]


def outside(body: str) -> list[tuple[int, str]]:
    """(line, name) of the names from outside."""
    return [(line, message.split()[1].rstrip(",")) for line, message in names(body)]


@pytest.mark.parametrize(
    "body",
    [
        "import json\nreturn json.dumps(outputs)",
        "from mlflow.entities import Feedback as Score\nreturn Score(value=1)",
        "return Feedback(value=True) if isinstance(outputs, str) else Trace",
        "total = 0\nfor word in outputs:\n    total += len(word)\nreturn total",
        "return [word for word in outputs if (size := len(word)) and size > 3]",
        "return {key: value for key, value in outputs.items()}",
        "def help(text):\n    return help(text[1:]) if text else outputs\nreturn help('ab')",
        "return (lambda text, *rest, size=3, **more: text[:size])(outputs)",
        "try:\n    return int(outputs)\nexcept ValueError as error:\n    return str(error)",
        "with open('/dev/null') as file:\n    return file.read()",
        "match outputs:\n    case {'a': first, **rest}:\n        return first\n    case [x, *_]:\n"
        "        return x\n    case str() as text:\n        return text",
        "class Part:\n    size: int = 3\n    double = size * 2\n    def get(self):\n"
        "        return __class__.double\nreturn Part().get()",
        "global cache\ncache = {}\ndef get():\n    return cache\nreturn get()",
        "global re\nimport re\nreturn bool(re.match('a', outputs))",
        "found: SomeType = outputs\nreturn found",  # never looked up
        "def inner(text: SomeType) -> Other:\n    return text\nreturn inner(outputs)",
        "import os.path\ndel os\nreturn None",
        "x = y = 1\nx, (y, *z) = 1, (2, 3)\nreturn x",
        "if False:\n    return not_there\nreturn 1",  # the compiler leaves it out
        "return f'{outputs!r:>{len(outputs)}}'",
        "async def go():\n    async with outputs as x:\n        return [y async for y in x]",
    ],
)
def test_what_is_defined_inside_or_built_in_is_fine(body: str) -> None:
    assert names(body) == []


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("return outputs > LIMIT", [(1, "LIMIT")]),
        ("text = str(outputs)\nreturn helper(text) + helper(text)", [(2, "helper")]),
        ("return json.dumps(outputs) + re.escape('')", [(1, "json"), (1, "re")]),
        ("return SpanType.TOOL", [(1, "SpanType")]),
        ("return [limit for x in outputs]", [(1, "limit")]),
        ("def inner():\n    return outputs + OFFSET\nreturn inner()", [(2, "OFFSET")]),
        ("return (lambda x: x * FACTOR)(outputs)", [(1, "FACTOR")]),
        ("class Answer(BaseModel):\n    x: int\n    y = SIZE\nreturn Answer()", None),
        ("global counter\ncounter += 1\nreturn counter", [(2, "counter")]),
        ("@cached\ndef inner():\n    return 1\nreturn inner()", [(1, "cached")]),
        ("def inner(size=SIZE):\n    return size\nreturn inner()", [(1, "SIZE")]),
        ("x = [x for x in outputs]\nreturn y if (y := 1) else z", [(2, "z")]),
        ("try:\n    return 1\nexcept MyError:\n    raise Other from None", None),
        ("match outputs:\n    case Point(x=1):\n        return 1", [(2, "Point")]),
        ("match outputs:\n    case Color.RED:\n        return 1", [(2, "Color")]),
        ("return __file__", [(1, "__file__")]),
        ("raise MlflowException('x')", [(1, "MlflowException")]),
        ("return mlflow.entities.Trace and typing.Any", [(1, "typing")]),
    ],
)
def test_names_from_outside_are_found_with_their_line(
    body: str, found: list[tuple[int, str]] | None
) -> None:
    if found is None:  # two names, on lines 1 and 3, or 3 and 4
        assert len(outside(body)) == 2
    else:
        assert outside(body) == found


def test_a_function_does_not_know_itself() -> None:
    assert names("return probe(outputs[1:])") == [
        (1, "calls itself, but is not known as probe where it runs")
    ]


@pytest.mark.parametrize(
    ("signature", "needs"),
    [
        ("(*, inputs, outputs=None, trace: mlflow.entities.trace.Trace) -> int", None),
        ("(outputs: 'List[str]', trace: 'Whatever') -> 'Any'", None),  # quoted: never looked up
        ("(outputs: list[dict[str, int | None]]) -> bool | None", None),
        ("(trace: Trace) -> mlflow.entities.assessment.Feedback", None),
        ("(outputs: List[str])", "its signature needs List"),
        ("(outputs) -> Optional[str]", "its signature needs Optional"),
        ("(outputs: dict[str, typing.Any])", "its signature needs typing"),
        ("(*outputs: numpy.ndarray, **more)", "its signature needs numpy"),
        ("(outputs, size=Decimal('1'))", "uses Decimal"),
        ("(outputs, what=<object object at 0x7f>)", "can't be written as Python"),
        ("(outputs: my.module.<locals>.Thing)", "can't be written as Python"),
        ("(outputs): pass\ndef other()", "can't be written as Python"),
    ],
)
def test_signatures(signature: str, needs: str | None) -> None:
    found = names("return 1", signature)
    assert found == [] if needs is None else needs in found[0][1]


@pytest.mark.parametrize(
    "body", ["", "   ", "def probe(outputs): return 1", "return (", "return 1\n  x = 2", "a\0b"]
)
def test_what_is_no_body_is_found(body: str) -> None:
    (found,) = check_stored("probe", body, "(outputs)", objection=anything)
    assert found.code in {"no-body", "syntax"}


@pytest.mark.parametrize("depth", [50, 5_000, 200_000])
def test_bodies_that_break_the_parser_are_an_answer_too(depth: int) -> None:
    for body in ("(" * depth + ")" * depth, "-" * depth + "1", "x" + ".y" * depth):
        check_stored("probe", f"return {body}", "(outputs)", objection=anything)


def test_a_body_that_would_keep_the_server_busy_is_refused_by_its_length() -> None:
    (found,) = check_stored("probe", "x = 1\n" * 1_000_000, "(outputs)", objection=anything)
    assert (found.code, found.message) == ("too-long", "has 6,000,000 characters")


def test_the_names_that_mlflow_provides_are_those() -> None:
    made = recreate_function("return 1", "(outputs)", "probe")
    assert set(made.__globals__) - {"__builtins__"} == PROVIDED


IDENTIFIERS = st.sampled_from(["outputs", "a", "b", "c", "LIMIT", "len"])
EXPRESSIONS = st.recursive(
    IDENTIFIERS | st.just("1"),
    lambda part: st.one_of(
        st.builds("({} or {})".format, part, part),
        st.builds("[{} for {} in {}]".format, part, st.sampled_from("abc"), part),
        st.builds("(lambda {}: {})".format, st.sampled_from("abc"), part),
        st.builds("({} := {})".format, st.sampled_from("xyz"), part),
    ),
    max_leaves=8,
)
STATEMENTS = st.one_of(
    st.builds("{} = {}".format, st.sampled_from("abc"), EXPRESSIONS),
    st.builds("def {}({}={}): return {}".format, *[st.sampled_from("abc")] * 2, *[EXPRESSIONS] * 2),
    st.builds("for {} in {}: pass".format, st.sampled_from("abc"), EXPRESSIONS),
    st.builds("class {}: a = {}; b = {}".format, st.sampled_from("abc"), EXPRESSIONS, EXPRESSIONS),
    st.builds("return {}".format, EXPRESSIONS),
)


BODIES = st.lists(STATEMENTS, min_size=1, max_size=6).map("\n".join)


def compiles(body: str) -> bool:
    try:
        compile(f"def probe(outputs):\n{textwrap.indent(body, '    ')}", "x", "exec")
    except SyntaxError:  # a walrus where none may be
        return False
    return True


@given(BODIES.filter(compiles))
def test_no_name_is_missing_where_it_runs_but_those_that_are_found(body: str) -> None:
    missing = set()
    try:
        recreate_function(body, "(outputs)", "probe")(outputs=[1, 2])
    except NameError as error:
        if str(error) == f"name '{error.name}' is not defined":  # not one that is yet to be bound
            missing.add(error.name)
    except (TypeError, ValueError, RecursionError):
        pass
    assert missing <= {name for _, name in outside(body)}


@given(BODIES.filter(compiles).filter(lambda body: "class" not in body))
def test_what_is_found_python_would_look_up_in_the_module(body: str) -> None:
    tables = [symtable.symtable(f"def f(outputs):\n{textwrap.indent(body, '  ')}", "x", "exec")]
    looked_up = set()
    for table in tables:
        tables.extend(table.get_children())
        looked_up |= {one.get_name() for one in table.get_symbols() if one.is_global()}
    assert {name for _, name in outside(body)} <= looked_up


def test_modules_beside_the_file_or_around_it_are_the_authors_own(tmp_path: Path) -> None:
    package = tmp_path / "shop" / "judging"
    package.mkdir(parents=True)
    for file in ("shop/__init__.py", "shop/judging/__init__.py", "helpers.py"):
        (tmp_path / file).touch()
    (tmp_path / "data").mkdir()
    objection = own_modules(package / "scorers.py")

    refused = [name for name in ("shop", "helpers", "json", "numpy", "data") if objection(name)]
    assert refused == ["shop", "helpers"]
    message, fix = objection("shop") or ("", "")
    assert "your own code" in message
    assert "inside the function" in fix


def test_findings_are_in_the_order_of_the_lines() -> None:
    found = check_stored("probe", "x = B\ny = A\nimport c", "(outputs)", objection=lambda m: (m, m))
    assert [(one.line, one.column) for one in found] == [(1, 5), (2, 5), (3, 1)]
    assert isinstance(found[0], Finding)


# --- at register, over HTTP ---


@pytest.fixture
def experiment(vedette: RunningVedette) -> Iterator[str]:
    """An experiment of the test's own, active."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(vedette.url)
    yield mlflow.set_experiment(uuid.uuid4().hex).experiment_id
    mlflow.set_tracking_uri(before)


def line_of(text: str) -> int:
    """The line of this file that holds the text first."""
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


@scorer_decorator
def too_long(outputs):
    """How long an answer may be."""
    # The docstring and this comment are not stored
    return len(str(outputs)) > LIMIT  # the line to be named


@scorer_decorator
def imports_helper(outputs):
    from running import free_port

    return free_port() > 0


def test_register_names_the_name_the_file_and_the_line(experiment: str) -> None:
    with pytest.raises(MlflowException, match="'too_long' is not self-contained") as caught:
        too_long.register()
    line = line_of("# the line to be named")
    assert f"test_self_contained.py, line {line}: uses LIMIT" in caught.value.message
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert list_scorers() == []


def test_register_refuses_imports_of_the_callers_own_modules(experiment: str) -> None:
    with pytest.raises(MlflowException, match=r"imports running, which is your own code") as caught:
        imports_helper.register()
    assert f"line {line_of('from running import free_port')}" in caught.value.message


def test_register_looks_into_ensembles(experiment: str) -> None:
    both = make_scorer_ensemble(name="both", scorers=[Safety(), too_long], ensemble_fn="agg_all")
    with pytest.raises(MlflowException, match="uses LIMIT"):
        both.register()


def test_decorators_that_are_not_stored_are_refused(experiment: str) -> None:
    @scorer_decorator
    @functools.lru_cache(maxsize=8)
    def cached(outputs):
        return len(outputs)

    with pytest.raises(MlflowException, match=r"decorated with functools\.lru_cache, which is not"):
        cached.register()


def test_closures_async_functions_and_one_liners_are_refused(experiment: str) -> None:
    limit = 10

    @scorer_decorator
    def closure(outputs):
        return len(outputs) > limit

    @scorer_decorator
    async def later(outputs):
        return len(outputs) > 3

    for made, said in ((closure, "uses limit"), (later, "is async")):
        with pytest.raises(MlflowException, match=said):
            made.register()
    with pytest.raises(MlflowException, match="stores no body"):
        scorer_decorator(lambda outputs: len(outputs) > 3, name="short").register()


def test_names_that_the_module_gives_another_meaning_are_refused(experiment: str) -> None:
    @scorer_decorator
    def squared(outputs):
        return pow(len(outputs), 2)  # a float, where the built-in pow gives an int

    @scorer_decorator
    def fine(outputs):
        import logging

        logging.getLogger(__name__).info("looked at %s", outputs)
        return Feedback(value=isinstance(outputs, str))

    with pytest.raises(MlflowException, match="uses pow, which is defined outside") as caught:
        squared.register()
    assert f"line {line_of('a float, where')}" in caught.value.message
    assert fine.register().scorer_version == 1


@scorer_decorator
def kind(outputs):
    """Has texts over several lines, at an indentation that storing changes."""

    @lambda made: lambda: made().upper()
    def plain():
        """Of
        its own."""
        return """a
b"""

    indented = f"""a
    b{""}"""
    return {"": 0, plain(): 1, indented: 2}.get(outputs, 3)


@pytest.mark.parametrize("outputs", ["", "A\nB", "a\n    b", "none of these"])
def test_what_is_stored_says_what_was_written(outputs: str) -> None:
    dump = serialize(kind)
    stored = recreate_function(dump["call_source"], dump["call_signature"], "kind")
    assert stored(outputs) == kind(outputs=outputs)


def test_texts_that_begin_further_left_than_the_function_are_stored_too() -> None:
    @scorer_decorator
    def listed(outputs):
        text = """one
two
"""
        return outputs in text.splitlines()

    dump = serialize(listed)
    stored = recreate_function(dump["call_source"], dump["call_signature"], "listed")
    assert [stored("two"), stored("three")] == [True, False]


@pytest.mark.parametrize(
    ("signature", "parameter"),
    [
        ("(outputs, context)", "context"),
        ("(*, retrieved_context)", "retrieved_context"),
        ("(outputs, /)", "outputs"),
        ("(outputs, limit=3, *, strict=True, **others)", None),
        ("(session)", None),
    ],
)
def test_parameters_that_no_call_has_a_value_for_are_found(
    signature: str, parameter: str | None
) -> None:
    found = [message for _, message in names("return True", signature)]
    assert found == ([f"takes {parameter}, which nothing is passed for"] if parameter else [])


def test_a_function_whose_source_is_nowhere_is_refused(experiment: str) -> None:
    space: dict = {}
    exec("def made(outputs):\n    return True", space)
    with pytest.raises(MlflowException, match="source of scorer 'made' can't be read"):
        scorer_decorator(space["made"]).register()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("x = 1\nreturn helper(outputs)", r"line 2 \(`return helper\(outputs\)`\): uses helper"),
        ("from my_own_package.judging import judge\nreturn judge(outputs)", "not installed"),
        ("from .judging import judge\nreturn judge(outputs)", "imports from its own package"),
        ("return (", "is not Python"),
        ("", "stores no body"),
        ("def probe(outputs): return 1", "written on one line"),
    ],
)
def test_the_server_refuses_what_other_clients_post(experiment: str, body: str, said: str) -> None:
    store = MlflowClient()._tracking_client.store
    with pytest.raises(MlflowException, match=said) as caught:
        store.register_scorer(experiment, "probe", serialized(body))
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    parts = {"ensemble_fn": "mean", "scorers": [json.loads(serialized(body))]}
    with pytest.raises(MlflowException, match=said):
        store.register_scorer(
            experiment, "both", json.dumps({"name": "both", "ensemble_scorer_data": parts})
        )
    assert list_scorers() == []


def test_the_server_takes_a_library_that_may_be_missing(experiment: str) -> None:
    body = "try:\n    import not_there\nexcept ImportError:\n    return None\nreturn 1"
    MlflowClient()._tracking_client.store.register_scorer(experiment, "p", serialized(body))
    assert [one.name for one in list_scorers()] == ["p"]


def serialized(body: str) -> str:
    return json.dumps(
        {
            "name": "probe",
            "call_source": body,
            "call_signature": "(outputs)",
            "original_func_name": "probe",
        }
    )


def test_the_check_imports_nothing_of_mlflow() -> None:
    code = "import sys, vedette.client.self_contained; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_the_check_accepts_mlflow_makes_a_function_of() -> None:
    body = textwrap.dedent(inspect.getsource(serialized).split("\n", 1)[1])
    assert [one[1] for one in names(body, "(body=None)")] == [
        "uses json, which is defined outside the function"
    ]
    made = recreate_function(f"import json\n{body}", "(body)", "probe")
    assert ast.literal_eval(repr(json.loads(made("x"))))["call_source"] == "x"
