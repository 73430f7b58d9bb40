"""What Ray Serve is told: every default that is a risk is replaced on purpose."""

from __future__ import annotations

from typing import Any

import pytest

from tierline import ConfigurationError
from tierline_cloud.ray.plan import (
    MAX_ONGOING,
    REGIONAL,
    Plan,
    deployment_options,
    environment,
    http_options,
    mixture,
    regions_without_nodes,
    route_prefix,
)
from tierline_serving.batching.limits import BatchLimits

# Ray 2.60's own defaults, from ray/serve/config.py and _private/constants.py.
RISKY: dict[str, object] = {
    "max_ongoing_requests": 5,
    "max_queued_requests": -1,
    "backpressure_config": None,
    "health_check_period_s": 10,
    "health_check_timeout_s": 30,
    "graceful_shutdown_wait_loop_s": 2,
    "graceful_shutdown_timeout_s": 20,
    "max_constructor_retry_count": 20,
    "rolling_update_percentage": 0.2,
    "max_surge_percent": 0,
    "logging_config": None,
}


@pytest.mark.parametrize("name", RISKY)
def test_a_risky_default_is_replaced(name: str) -> None:
    assert deployment_options(Plan(), None)[name] != RISKY[name]


@pytest.mark.parametrize(
    ("name", "default"),
    [("request_timeout_s", None), ("keep_alive_timeout_s", 90)],
)
def test_a_risky_default_of_the_proxies_is_replaced(name: str, default: object) -> None:
    assert http_options(Plan(), "127.0.0.1", 8201)[name] != default


def test_a_batch_can_fill_while_another_is_scored() -> None:
    assert 2 * BatchLimits().max_batch_requests <= MAX_ONGOING


def test_a_drain_outlasts_the_longest_request() -> None:
    plan = Plan(max_timeout=90.0)
    assert deployment_options(plan, None)["graceful_shutdown_timeout_s"] > 90.0
    assert http_options(plan, "127.0.0.1", 1)["request_timeout_s"] == 90.0


def test_replicas_scale_by_queue_delay_between_the_bounds() -> None:
    scaling: dict[str, Any] = deployment_options(Plan(), None)["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (2, 8)
    assert scaling["policy"]["policy_function"].endswith("QueueDelayPolicy")
    assert scaling["look_back_period_s"] > 10.0  # what Ray demands of it


def test_equal_bounds_are_a_fixed_number() -> None:
    options = deployment_options(Plan(min_replicas=3, max_replicas=3), None)
    assert options["num_replicas"] == 3
    assert "autoscaling_config" not in options


def test_without_regions_replicas_run_anywhere() -> None:
    plan = Plan()
    assert plan.applications == {"tierline": None}
    assert route_prefix(None) == "/"
    assert "label_selector" not in deployment_options(plan, None)["ray_actor_options"]
    assert environment(plan)[REGIONAL] == "0"


def test_a_regions_replicas_stay_in_it() -> None:
    plan = Plan(regions=("eu", "us"), gpus=0.5)
    assert plan.applications == {"tierline-eu": "eu", "tierline-us": "us"}
    actor = deployment_options(plan, "eu")["ray_actor_options"]
    assert actor["label_selector"] == {"ray.io/region": "eu"}
    assert actor["num_gpus"] == 0.5
    assert route_prefix("eu") == "/eu"
    assert environment(plan)[REGIONAL] == "1"


def test_a_region_without_a_node_is_named() -> None:
    assert regions_without_nodes(Plan(regions=("eu", "us")), {"eu", ""}) == ["us"]


@pytest.mark.parametrize(
    ("plan", "running", "clash"),
    [
        (Plan(), [], False),
        (Plan(), ["tierline"], False),
        (Plan(), ["tierline-eu"], True),
        (Plan(), ["chat"], True),
        (Plan(regions=("eu",)), ["tierline-eu", "tierline-us"], False),
        (Plan(regions=("eu",)), ["tierline"], True),
    ],
)
def test_applications_that_could_not_be_told_apart_clash(
    plan: Plan, running: list[str], clash: bool
) -> None:
    assert (mixture(plan, running) is not None) == clash


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Tierline"},
        {"name": ""},
        {"regions": ("eu/../us",)},
        {"regions": ("eu", "eu")},
        {"min_replicas": 0},
        {"min_replicas": 3, "max_replicas": 2},
        {"cpus": 0.0},
        {"gpus": -1.0},
    ],
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Plan(**wrong)
