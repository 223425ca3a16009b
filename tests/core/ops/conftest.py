"""Every instruction set that runs here, one after another."""

import pytest

from bitembed_core.ops import library


@pytest.fixture(params=library.supported_isas() if library.available() else [])
def isa(request):
    before = library.isa()
    library.select_isa(request.param)
    yield request.param
    library.select_isa(before)
