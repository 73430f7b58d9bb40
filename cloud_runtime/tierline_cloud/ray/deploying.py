"""Puts a deployment on a Ray cluster and waits until it answers; `plan` says what, this does it."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from tierline import ConfigurationError, MissingExtra, TierlineError
from tierline_cloud.ray.plan import (
    REGION_LABEL,
    Plan,
    deployment_options,
    environment,
    http_options,
    mixture,
    regions_without_nodes,
    route_prefix,
)
from tierline_cloud.ray.proxy import ANYWHERE, WHO_PATH
from tierline_cloud.ray.ray_metrics import ray_metrics
from tierline_cloud.ray.replica import Replica, ReplicaOptions
from tierline_serving.access.tls import Tls
from tierline_serving.settings import is_loopback

LOOK_EVERY: Final = 0.5  # seconds between looks at a deployment that is not there yet
ASK_TIMEOUT: Final = 5.0  # seconds for a proxy to say who it is
_FAILED: Final = "DEPLOY_FAILED"  # "UNHEALTHY" may pass: a replica died, and is replaced

Say = Callable[[str], None]


class DeploymentFailed(TierlineError):
    """Ray could not bring the deployment up; what served before serves on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The cluster's address, and where its proxies listen."""

    address: str
    host: str
    port: int
    tls: Tls | None = None

    @property
    def url(self) -> str:
        """Where the proxy of this machine is asked."""
        host = self.host if is_loopback(self.host) else "127.0.0.1"
        return f"{'http' if self.tls is None else 'https'}://{host}:{self.port}"


def deploy(plan: Plan, options: ReplicaOptions, where: Where, *, patience: float, say: Say) -> None:
    """Deploy, or upgrade what is deployed under this name, and return once every replica wanted
    answers. Raises ConfigurationError for what cannot go together, DeploymentFailed when it did
    not come up within ``patience`` seconds."""
    ray, serve = _ray()
    _connect(ray, where.address)
    _check_regions(plan, ray)
    clash = mixture(plan, serve.status().applications)
    if clash is not None:
        raise ConfigurationError(clash)
    serve.start(
        proxy_location="EveryNode",
        http_options={**http_options(plan, where.host, where.port), **_ssl(where.tls)},
        logging_config={"enable_access_log": False},
        controller_options={"runtime_env": {"env_vars": environment(plan)}},
    )
    targets = [
        serve.RunTarget(
            target=_application(serve, plan, options, region),
            name=name,
            route_prefix=route_prefix(region),
        )
        for name, region in plan.applications.items()
    ]
    serve.run_many(targets, wait_for_applications_running=False)
    _wait(serve, plan, patience)
    _check_proxy(plan, where, say)


def standing(plan: Plan, applications: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether every application of the plan runs, and what is to be said of those that do not.
    Raises DeploymentFailed when one never will. Any: Ray's overview."""
    waiting: list[str] = []
    for name in plan.applications:
        found = applications.get(name)
        if found is None:
            waiting.append(f"{name}: not begun")
            continue
        status = str(getattr(found.status, "value", found.status))
        details = "; ".join(each.message for each in found.deployments.values() if each.message)
        said = f"{name}: {status} {found.message} {details}".strip()
        if status == _FAILED:
            raise DeploymentFailed(f"{said}; what served before serves on")
        if status != "RUNNING":
            waiting.append(said)
    return not waiting, "; ".join(waiting)


def _application(serve: Any, plan: Plan, options: ReplicaOptions, region: str | None) -> Any:
    ingress = serve.ingress()(Replica)
    return serve.deployment(**deployment_options(plan, region))(ingress).bind(options, ray_metrics)


def _ray() -> tuple[ModuleType, Any]:  # Any: ray is not typed here
    try:
        import ray
        from ray import serve
    except ModuleNotFoundError as missing:
        raise MissingExtra("ray", "'tierline cloud deploy --ray'") from missing
    return ray, serve


def _connect(ray: Any, address: str) -> None:
    if ray.is_initialized():
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        raise ConfigurationError(
            f"there is no Ray cluster at {address!r} ({error}); start one: "
            "ray start --head --disable-usage-stats"
        ) from error


def _check_regions(plan: Plan, ray: Any) -> None:
    labels = {node["Labels"].get(REGION_LABEL, "") for node in ray.nodes() if node["Alive"]}
    missing = regions_without_nodes(plan, labels)
    if missing:
        known = ", ".join(sorted(labels - {""})) or "none"
        raise ConfigurationError(
            f"no node of the cluster is labelled {REGION_LABEL}={missing[0]}; regions there are: "
            f"{known}. Label nodes as they join: ray start --labels {REGION_LABEL}={missing[0]}"
        )


def _ssl(tls: Tls | None) -> dict[str, str]:
    if tls is None:
        return {}
    files = {"ssl_certfile": str(tls.certificate), "ssl_keyfile": str(tls.key)}
    if tls.client_ca is not None:
        files["ssl_ca_certs"] = str(tls.client_ca)
    return files


def _wait(serve: Any, plan: Plan, patience: float) -> None:
    # Nothing of the deployment before is seen: Ray says DEPLOYING before run_many returns.
    until = time.monotonic() + patience
    while True:
        runs, waiting = standing(plan, serve.status().applications)
        if runs:
            return
        if time.monotonic() > until:
            raise DeploymentFailed(
                f"not up after {patience:g} s ({waiting}); what served before serves on, and Ray "
                "goes on trying until something else is deployed"
            )
        time.sleep(LOOK_EVERY)


def _check_proxy(plan: Plan, where: Where, say: Say) -> None:
    """Say so when the proxies are not ours: Serve keeps what it was first started with."""
    if where.tls is not None and where.tls.verifies_callers:
        return  # the deployer has no certificate of a caller's
    try:
        with urllib.request.urlopen(where.url + WHO_PATH, timeout=ASK_TIMEOUT) as answer:
            region = answer.read(100).decode("ascii", "replace")
    except (urllib.error.URLError, TimeoutError) as error:
        say(f"the proxy at {where.url} was not asked who it is ({error}); ask it: {WHO_PATH}")
        return
    if (region == ANYWHERE) == bool(plan.regions):
        raise DeploymentFailed(
            f"the proxies {'do not ' if plan.regions else ''}go by region: Serve was first started "
            "otherwise here; run `serve shutdown` and deploy again"
        )
