"""Training SASRec: exact full-softmax loss, length-bucketed batches, checkpoints that resume."""

from tierline_cloud.training.loop import TrainConfig, TrainReport, train_sasrec

__all__ = ["TrainConfig", "TrainReport", "train_sasrec"]
