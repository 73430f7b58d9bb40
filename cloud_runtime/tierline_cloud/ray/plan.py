"""What Ray Serve is told of a deployment: every option whose default is a risk, with the reason.

Pure: values in, dictionaries in Ray's own words out (Ray 2.60).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from tierline import ConfigurationError
from tierline_cloud.ray.scaling import Goals
from tierline_serving.batching.limits import DEFAULT_MAX_BATCH_REQUESTS
from tierline_serving.settings import DEFAULT_MAX_TIMEOUT

DEPLOYMENT: Final = "Replica"
REGION_LABEL: Final = "ray.io/region"  # Ray's own name for it; cloud providers set it
REGIONAL: Final = "TIERLINE_RAY_REGIONAL"  # tells the proxies that each serves its own region
PROXY_FRONT: Final = "tierline_cloud.ray.proxy:middlewares"
POLICY: Final = "tierline_cloud.ray.policy:QueueDelayPolicy"

# One batch is scored, one is filling, two are on their way. More would wait where no deadline is
# looked at; fewer and a batch never fills (Ray's default is 5).
MAX_ONGOING: Final = 4 * DEFAULT_MAX_BATCH_REQUESTS
MAX_QUEUED: Final = 2 * MAX_ONGOING  # a proxy; Ray's default has no end
RETRY_AFTER: Final = 1.0  # seconds; HTTP knows whole ones only
METRICS_PUSH: Final = 2.0  # seconds between reports; Ray's 10 s would be the whole delay upwards
LOOK_BACK: Final = 12.0  # Ray wants more than its own 10 s metrics_interval_s; the default is 30
UPSCALE_DELAY: Final = 5.0  # Ray's default is 30: too late for callers with deadlines
DOWNSCALE_DELAY: Final = 300.0
HEALTH_PERIOD: Final = 5.0
HEALTH_TIMEOUT: Final = 5.0  # three misses end a replica: 15 s to 30 s, with Ray's defaults 90 s
DRAIN_LOOP: Final = 0.5  # Ray's default is 2: a replica with nothing to finish waits all of it
SHUTDOWN_MARGIN: Final = 5.0
SURGE_PERCENT: Final = 25  # Ray's default is 0: it stops old replicas before new ones are ready
WAVE: Final = 0.25  # of the replicas are replaced at a time
CONSTRUCTOR_TRIES: Final = 3  # a bundle that does not load will not load the twentieth time
KEEP_ALIVE: Final = 65  # seconds: longer than common balancers (60), whose reuse would race with it
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One model's deployment. Times in seconds; with ``regions`` each has replicas of its own,
    ``min_replicas`` to ``max_replicas``. Raises ConfigurationError."""

    name: str = "tierline"
    min_replicas: int = 2  # one may die, or be replaced, while the other answers
    max_replicas: int = 8
    cpus: float = 1.0
    gpus: float = 0.0
    regions: tuple[str, ...] = ()
    goals: Goals = field(default_factory=Goals)
    max_timeout: float = DEFAULT_MAX_TIMEOUT  # the longest a request may take
    upscale_delay: float = UPSCALE_DELAY
    downscale_delay: float = DOWNSCALE_DELAY

    def __post_init__(self) -> None:
        for name in (self.name, *self.regions):
            if not _NAME.fullmatch(name):
                raise ConfigurationError(
                    f"{name!r} must be 1 to 40 lower-case letters, digits and inner hyphens: it "
                    "becomes a part of names and paths in Ray"
                )
        if len(set(self.regions)) != len(self.regions):
            raise ConfigurationError(f"a region is named twice: {', '.join(self.regions)}")
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ConfigurationError(
                f"the replicas must be at least 1 and at most the maximum, got "
                f"{self.min_replicas} to {self.max_replicas}",
                key="replicas",
            )
        if not self.cpus > 0.0 or self.gpus < 0.0:
            raise ConfigurationError(
                f"a replica needs some share of a CPU, and no less than 0 GPUs; got {self.cpus} "
                f"and {self.gpus}",
                key="cpus",
            )

    @property
    def applications(self) -> dict[str, str | None]:
        """The names of the Ray Serve applications, each with its region; None: anywhere."""
        if not self.regions:
            return {self.name: None}
        return {f"{self.name}-{region}": region for region in self.regions}


def route_prefix(region: str | None) -> str:
    """Where an application hangs in the proxies' routes."""
    return "/" if region is None else f"/{region}"


def deployment_options(plan: Plan, region: str | None) -> dict[str, Any]:
    """The arguments of ``serve.deployment`` for the replicas of one region."""
    return {
        "name": DEPLOYMENT,
        **_replicas(plan),
        "max_ongoing_requests": MAX_ONGOING,
        "max_queued_requests": MAX_QUEUED,
        # "Come back" and not "broken": the SDK goes elsewhere and blames nobody.
        "backpressure_config": {"status_code": 429, "retry_after_s": RETRY_AFTER},
        "health_check_period_s": HEALTH_PERIOD,
        "health_check_timeout_s": HEALTH_TIMEOUT,
        "graceful_shutdown_wait_loop_s": DRAIN_LOOP,
        # Longer than the longest request may take: nothing accepted is cut off by a drain.
        "graceful_shutdown_timeout_s": plan.max_timeout + SHUTDOWN_MARGIN,
        "max_constructor_retry_count": CONSTRUCTOR_TRIES,
        "rolling_update_percentage": WAVE,
        "max_surge_percent": SURGE_PERCENT,
        "ray_actor_options": _actor(plan, region),
        "logging_config": {"enable_access_log": False},  # a line a request costs more than it says
    }


def http_options(plan: Plan, host: str, port: int) -> dict[str, Any]:
    """The proxies' HTTP options."""
    return {
        "host": host,
        "port": port,
        "request_timeout_s": plan.max_timeout,  # Ray's default has no end
        "keep_alive_timeout_s": KEEP_ALIVE,
    }


def environment(plan: Plan) -> dict[str, str]:
    """What the controller and, through it, the proxies find in their environment."""
    return {
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": PROXY_FRONT,
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": f"{METRICS_PUSH:g}",
        "RAY_SERVE_STOP_FAILED_ROLLING_UPDATES": "1",  # what served before serves on
        REGIONAL: "1" if plan.regions else "0",
    }


def mixture(plan: Plan, running: Collection[str]) -> str | None:
    """Why these applications cannot stand beside those of Tierline that run, in a sentence; None
    when they can. Proxies go by region or do not, all of them."""
    own = plan.applications
    strangers = sorted(set(running) - set(own))
    if plan.regions:
        clashes = [name for name in strangers if not name.startswith(f"{plan.name}-")]
    else:
        clashes = strangers
    if not clashes:
        return None
    return (
        f"Ray Serve already runs {', '.join(clashes)} here, and requests could not be told apart; "
        "remove it (serve delete NAME), or use a cluster of its own"
    )


def regions_without_nodes(plan: Plan, labels: Collection[str]) -> list[str]:
    """The plan's regions that none of the nodes' region labels names."""
    return [region for region in plan.regions if region not in labels]


def _replicas(plan: Plan) -> dict[str, Any]:
    if plan.min_replicas == plan.max_replicas:
        return {"num_replicas": plan.min_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": plan.min_replicas,
            "max_replicas": plan.max_replicas,
            # Our policy does not read it; Ray's own would, were ours taken out.
            "target_ongoing_requests": math.floor(0.7 * MAX_ONGOING),
            "look_back_period_s": LOOK_BACK,
            "upscale_delay_s": plan.upscale_delay,
            "downscale_delay_s": plan.downscale_delay,
            "policy": {
                "policy_function": POLICY,
                "policy_kwargs": {"delay": plan.goals.delay, "busy": plan.goals.busy},
            },
        }
    }


def _actor(plan: Plan, region: str | None) -> dict[str, Any]:
    push = {"RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": f"{METRICS_PUSH:g}"}
    options: dict[str, Any] = {"num_cpus": plan.cpus, "runtime_env": {"env_vars": push}}
    if plan.gpus:
        options["num_gpus"] = plan.gpus
    if region is not None:
        options["label_selector"] = {REGION_LABEL: region}
    return options
