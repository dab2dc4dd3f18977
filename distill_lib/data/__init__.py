"""Data sets as checked, documented values; synthetic sets as `ImageSet`."""

from .catalogue import DATASETS, NORMALISATIONS, Dataset, like, side, sized
from .find import downloads, hold_out, how_to_fetch, locate, unpacked
from .imageset import READERS, Facts, ImageSet
from .loading import facts_table, load, load_with_validation, not_at_hand, split
from .prepare import RESIZE, open_image, resize
from .whitening import Whitening
