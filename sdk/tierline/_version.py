"""The one version of client, wire and servers."""

__version__ = "0.1.0"
