"""Apps in a real browser: they load without errors, a control moves a plot, and two visitors do not share anything."""

import pytest

from workbench.showcase.chromium import PHONE, AppPage, chromium, find_chromium
from workbench.showcase.serving import serve

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="this system has no Chromium")


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def test_convert(browser, backbone, examples, tmp_path):
    arguments = (
        *("--backbone", backbone, "--out", str(tmp_path / "run"), "--calibration-texts", examples),
        *("--calibration-size", "8", "--held-out-size", "4"),
    )
    title = "Latent weights and their ternary values"
    with (
        serve("convert", arguments) as address,
        AppPage(browser) as first,
        AppPage(browser, PHONE) as second,
    ):
        first.open(address)
        second.open(address)
        first.page.get_by_role("button", name="Convert").click()
        before = first.drawn(title)
        first.page.get_by_label("Projection").select_option("attention.output.dense")
        after = first.drawn(title, other_than=before)
        assert after != before
        assert second.plot(title).count() == 0
        assert first.errors == second.errors == []
