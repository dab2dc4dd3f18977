"""What a number is (`Cell`), what was measured for it (`Record`), and who measured it."""

from .made_by import code_state, lock_state, provenance
from .record import (
    ABOVE_CHANCE,
    Cell,
    Record,
    cost,
    differences,
    files,
    load,
    number_of_classes,
    path,
    read,
    sets_and_networks,
    underfit,
)
