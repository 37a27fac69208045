"""The real file, where it is present."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def intel_lab_file() -> Path:
    path = Path(__file__).parents[5] / "shared/data/intel_lab/data.txt.gz"
    if not path.exists():
        pytest.skip("the shared data set (../shared/data) is not present")
    return path
