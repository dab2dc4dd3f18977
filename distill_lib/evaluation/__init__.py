"""Train fresh networks on a set under a named protocol, and test them."""

from .evaluator import VERSION, Evaluation, evaluate, loss_per_network, targets, update_average
