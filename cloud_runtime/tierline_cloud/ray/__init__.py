"""Cloud serving beyond one machine: the same handlers, wire and bundles as a Ray Serve application.

Only `deploying` and `ray_metrics` import ray, and only when they are called.
"""
