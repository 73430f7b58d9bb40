"""The yardstick: nginx or HAProxy, tuned, as the only address clients know of the edge nodes.

Tuned means: short timeouts, passive (nginx) or active (HAProxy) checks, one retry on the next node,
also of POST. Both run from Debian's packages, installed or unpacked with ``dpkg -x`` into the
folder that TIERLINE_YARDSTICK names.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tierline_drills.errors import DrillError, NotHere

FRONTS = ("nginx", "haproxy")
ROOT = "TIERLINE_YARDSTICK"
CONNECT_MS, ANSWER_MS = 10, 20  # what a node of the yardstick gets before the next one is asked


def command(name: str, folder: Path, port: int, nodes: Sequence[str]) -> list[str]:
    """The command line that serves ``nodes`` (host:port) on a port; writes its configuration into
    ``folder``. Raises NotHere when the program is not on this machine."""
    program = _find(name)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{name}.conf"
    if name == "nginx":
        place.write_text(nginx(folder, port, nodes), encoding="utf-8")
        return [program, "-c", str(place), "-p", str(folder), "-e", str(folder / "error.log")]
    place.write_text(haproxy(port, nodes), encoding="utf-8")
    return [program, "-db", "-f", str(place)]


def environment() -> dict[str, str]:
    """Where the libraries of an unpacked package are."""
    root = os.environ.get(ROOT)
    return {"LD_LIBRARY_PATH": f"{root}/usr/lib/x86_64-linux-gnu"} if root else {}


def nginx(folder: Path, port: int, nodes: Sequence[str]) -> str:
    """Its configuration: passive checks, and the next upstream after a timeout, POST included."""
    servers = "\n".join(f"    server {node} max_fails=1 fail_timeout=2s;" for node in nodes)
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
{temporary}
  upstream edge {{
    least_conn;
{servers}
    keepalive 64;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://edge;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_pass_request_headers on;
      proxy_connect_timeout {CONNECT_MS}ms;
      proxy_read_timeout {ANSWER_MS}ms;
      proxy_send_timeout {ANSWER_MS}ms;
      proxy_next_upstream error timeout http_502 http_503 non_idempotent;
      proxy_next_upstream_tries 3;
    }}
  }}
}}
"""


def haproxy(port: int, nodes: Sequence[str]) -> str:
    """Its configuration: active checks every 100 ms, and a redispatch after any failure."""
    servers = "\n".join(
        f"  server node{i} {node} check inter 100ms fall 2 rise 2 observe layer7 "
        "error-limit 2 on-error mark-down"
        for i, node in enumerate(nodes)
    )
    return f"""global
  maxconn 1024
defaults
  mode http
  timeout connect {CONNECT_MS}ms
  timeout client 30s
  timeout server {ANSWER_MS}ms
  timeout check 50ms
  timeout http-keep-alive 30s
  option http-buffer-request
  option redispatch 1
  retries 2
  retry-on all-retryable-errors
frontend front
  bind 127.0.0.1:{port}
  default_backend edge
backend edge
  balance leastconn
  http-reuse always
  option httpchk GET /readyz
{servers}
"""


def _find(name: str) -> str:
    if name not in FRONTS:
        raise DrillError(f"fleet.front must be one of {', '.join(FRONTS)}, got {name!r}")
    root = os.environ.get(ROOT)
    places = f"{root}/usr/sbin" if root else "/usr/sbin:/usr/bin:/usr/local/sbin"
    found = shutil.which(name, path=places)
    if found is None:
        raise NotHere(f"{name} is not on this machine (apt-get install {name}, or set {ROOT})")
    return found
