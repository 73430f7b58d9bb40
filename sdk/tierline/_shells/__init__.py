"""Shells: they act for the core and never decide."""
