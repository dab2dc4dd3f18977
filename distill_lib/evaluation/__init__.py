"""Train fresh networks on a set under a named protocol, and test them."""

from .evaluator import VERSION, Evaluation, evaluate, evaluate_networks, loss_per_network, targets, update_average

__all__ = ["VERSION", "Evaluation", "evaluate", "evaluate_networks", "loss_per_network", "targets", "update_average"]
