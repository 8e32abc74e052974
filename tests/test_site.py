"""The documentation as a site: every page in the navigation, every link and anchor valid, nothing fetched."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("material", reason="needs the extra [docs]")
ROOT = Path(__file__).parents[1]
_FETCHED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?(https?:)?//(?!example\.org)[^>]*>""")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert built.returncode == 0, built.stderr[-4000:]
    return folder


def test_every_page_is_on_the_site(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    names = {Path(str(page).replace("README.html", "index.html")) for page in pages}
    assert {name for name in names if not (site / name).is_file()} == set()


def test_nothing_is_fetched_from_elsewhere(site):
    pages, styles = site.rglob("*.html"), site.rglob("*.css")
    assert not [(page.name, found[0]) for page in pages for found in _FETCHED.finditer(page.read_text())]
    assert not [style.name for style in styles if re.search(r"url\(['\"]?(?:https?:)?//", style.read_text())]


def test_links_out_of_the_pages_become_paths_in_the_repository(site):
    assert "<code>configs/transfer</code>" in (site / "transfer.html").read_text()
