"""What the tests of this folder share."""

from lm_folder import lm  # noqa: F401 (a fixture)
