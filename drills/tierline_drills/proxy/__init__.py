"""A TCP chaos proxy with Toxiproxy's REST names, and faults in the content of our answers."""

from tierline_drills.proxy.client import ProxyClient
from tierline_drills.proxy.server import ChaosProxy, Proxies
from tierline_drills.proxy.toxics import Toxic, read_toxic

__all__ = ["ChaosProxy", "Proxies", "ProxyClient", "Toxic", "read_toxic"]
