"""Every table and figure: which cells it has, where they stand, and computing them."""

from .definition import Experiment, Numbers, Parameters, Skip, Task
from .engine import run
from .registry import check_parameters, experiment, experiments, find, paper_data, parameters, select
from .state import TO_COMPUTE, Outcome, Status, plan, status
