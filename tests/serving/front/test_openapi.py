"""Whatever is sent to any route of the published OpenAPI document, the answer is one it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st
from processes import Served

from tierline_serving.access.scopes import Scope, needed_scope
from tierline_serving.oip.paths import _ABOUT_A_MODEL, Operation
from tierline_serving.openapi import Route, document, routes

PUBLISHED = Path(__file__).resolve().parents[3] / "docs" / "openapi.json"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def of_schema(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit a schema of the document, with every optional part there or not."""
    kind = schema.get("type")
    if isinstance(kind, list):
        return st.sampled_from(kind).flatmap(lambda each: of_schema({**schema, "type": each}))
    if kind == "object":
        known = {name: of_schema(each) for name, each in schema.get("properties", {}).items()}
        needed = schema.get("required", [])
        return st.fixed_dictionaries(
            {name: known.get(name, json_values) for name in needed},
            optional={name: each for name, each in known.items() if name not in needed},
        )
    if kind == "array":
        least = schema.get("minItems", 0)
        return st.lists(of_schema(schema.get("items", {})), min_size=least, max_size=least + 3)
    if kind == "string":
        return st.sampled_from([*schema.get("examples", ["ranker", "history"]), "é", ""])
    if kind == "integer":
        return st.integers(schema.get("minimum", -5), 2**40)
    return st.booleans() if kind == "boolean" else json_values


names = st.sampled_from(
    ["ranker", "taste", "sum_int8", "1", "7@0123456789ab", "canary", "..", "%", "a/b", "é\x00"]
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Route, str, bytes, dict[str, str]]:
    """A route, a path for it, a body that fits or does not, headers."""
    route = draw(st.sampled_from(routes()))
    parts = [
        quote(draw(names), safe="") if part.startswith("{") else part
        for part in route.path.split("/")
    ]
    bodies = st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode())
    if route.takes is not None and "application/json" in route.takes:
        content: Any = route.takes["application/json"]
        fitting = of_schema(content["schema"])
        bodies = fitting.map(lambda value: json.dumps(value).encode()) | bodies
    headers = draw(
        st.dictionaries(
            st.sampled_from(["Content-Encoding", "Accept-Encoding", "X-Tierline-Deadline-Ms"]),
            st.sampled_from(["gzip", "deflate", "1", "-1", "NaN", "br"]),
            max_size=2,
        )
    )
    return route, "/".join(parts), draw(bodies) if route.verb == "post" else b"", headers


@settings(max_examples=250)
@given(request=requests())
def test_any_request_to_any_published_route_gets_an_answer_the_document_names(
    node: Served, request: tuple[Route, str, bytes, dict[str, str]]
) -> None:
    route, path, body, headers = request
    answered = node.ask(route.verb.upper(), path, body, headers)
    assert answered.status in {200, *route.errors}, (path, answered)
    assert answered.status not in (500, 503), (path, answered)
    if answered.status == 200:
        kind = answered.headers["content-type"].partition(";")[0]
        allowed = {*route.answer, "application/octet-stream"}
        assert kind in allowed or kind == "text/plain"


def test_the_published_document_is_the_one_the_code_makes() -> None:
    assert json.loads(PUBLISHED.read_text("utf-8")) == document(), (
        "print it anew: python -m tierline_serving.openapi > docs/openapi.json"
    )


def test_an_endpoint_publishes_the_document_itself(node: Served) -> None:
    assert node.ask("GET", "/openapi.json").json == document()


def test_every_operation_of_the_code_is_published_and_every_published_route_is_there(
    node: Served,
) -> None:
    published = {route.path for route in routes()}
    served = {"/".join(("/v2/models/{model}", *tail)) for tail, operation in _ABOUT_A_MODEL.items()
              if operation is not Operation.UNSERVED}  # fmt: skip
    assert served <= published
    for route in routes():
        path = route.path.replace("{model}", "ranker")
        verb = "DELETE"
        assert node.ask(verb, path).status == 405, route.path


def test_changes_of_the_repository_are_published_as_what_an_admin_may_do() -> None:
    changes = [route for route in routes() if route.path.startswith("/v2/repository")]
    assert len(changes) == 5
    for route in changes:
        assert needed_scope(route.path, route.path) is Scope.ADMIN
