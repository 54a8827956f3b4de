"""The whole pipeline keeps the meaning of graphs, whatever the target asks for."""

from graph_samples import assert_same, graphs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.compiler.pipeline import run_pipeline, run_shared
from tilth.runtime.target import Options, Traits

NATIVE = Traits(layout="channels_last", explicit_padding=True, fuses=True)
TRAITS = [
    Traits(),
    Traits(fuses=True),
    Traits(layout="channels_last"),
    Traits(explicit_padding=True, composites=frozenset({"softmax", "average_pool", "gelu"})),
    NATIVE,
]
# a fixture that only sets an environment variable need not run for each example
SETTINGS = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@settings(max_examples=80, **SETTINGS)
@given(graphs(), st.sampled_from(TRAITS))
def test_any_graph_keeps_its_meaning(g, traits):
    assert_same(g, run_pipeline(g, traits, Options()).graph, 1e-4)


@settings(max_examples=80, **SETTINGS)
@given(graphs(image=True), st.sampled_from(TRAITS))
def test_any_image_graph_keeps_its_meaning(g, traits):
    assert_same(g, run_pipeline(g, traits, Options()).graph, 1e-4)


@settings(max_examples=20, **SETTINGS)
@given(graphs(image=True))
def test_shared_passes_keep_the_meaning(g):
    assert_same(g, run_shared(g, Options()).graph, 1e-4)
