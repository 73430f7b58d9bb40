"""The public strategies: whatever they draw is valid, and Tierline's own properties hold on it."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from tierline import ClientConfig
from tierline.testing import check, simulate
from tierline.testing.strategies import configs, schedules, score_requests
from tierline.wire import ScoreRequest, decode_request, encode_request


@settings(max_examples=60)
@given(config=configs(), data=st.data(), seed=st.integers(0, 2**32))
def test_every_property_holds_for_any_configuration_and_any_faults(
    config: ClientConfig, data: st.DataObject, seed: int
) -> None:
    check(simulate(config, faults=data.draw(schedules(config)), seed=seed))


@settings(max_examples=50)
@given(score_requests())
def test_any_request_travels(request: ScoreRequest) -> None:
    again = decode_request(b"".join(encode_request(request)))
    assert again.k == request.k
    assert again.query["history"].tolist() == request.query["history"].tolist()


def test_without_hypothesis_the_strategies_name_the_extra_that_brings_it() -> None:
    program = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import tierline.testing\n"
        "from tierline import MissingExtra\n"
        "try:\n    import tierline.testing.strategies\n"
        "except MissingExtra as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert "tierline[testing]" in done.stdout
