"""Training of world foundation models."""

from cosmos_train.parallel import mcore_import

mcore_import.install()
