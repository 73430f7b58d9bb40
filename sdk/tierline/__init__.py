"""Score candidates at the edge, escalate to the cloud when unsure; one call, answered in time."""

from tierline._version import __version__

__all__ = ["__version__"]
