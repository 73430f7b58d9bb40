"""Training next-item networks: exact full-softmax loss, like lengths together, resumable."""

from tierline_cloud.training.config import TrainConfig
from tierline_cloud.training.loop import TrainReport, train_network

__all__ = ["TrainConfig", "TrainReport", "train_network"]
