"""Interaction data: read it, split it, or make some up."""

from tierline_cloud.data.ingest import DATA_FORMATS, read_interactions
from tierline_cloud.data.sequences import Sequences, pad_left
from tierline_cloud.data.split import (
    GLOBAL_TIME,
    LEAVE_ONE_OUT,
    SPLITS,
    Slot,
    Split,
    TimeSplit,
    UserGroups,
    global_time,
    group_users,
    leave_one_out,
    split_by,
)
from tierline_cloud.data.synthetic import ShopConfig, generate_shop

__all__ = [
    "DATA_FORMATS",
    "GLOBAL_TIME",
    "LEAVE_ONE_OUT",
    "SPLITS",
    "Sequences",
    "ShopConfig",
    "Slot",
    "Split",
    "TimeSplit",
    "UserGroups",
    "generate_shop",
    "global_time",
    "group_users",
    "leave_one_out",
    "pad_left",
    "read_interactions",
    "split_by",
]
