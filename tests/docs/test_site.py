"""The site of docs/: it builds without a warning, and its links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import tomllib
from pages import DOCS, ROOT, SHOWN

zensical = shutil.which("zensical", path=os.path.dirname(sys.executable))
pytestmark = pytest.mark.skipif(
    zensical is None, reason="zensical is not installed (requirements/docs.txt)"
)
CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]


class Page(HTMLParser):
    """What a page links to and where it can be linked to."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.links, self.anchors = path, set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs.get("id"), attrs.get("name")} - {None}
        if tag in ("a", "img", "link", "script"):
            self.links |= {attrs.get("href"), attrs.get("src")} - {None, ""}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, str]:
    """The site as `make docs` builds it, and what was said."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    (folder / "convnext_backbones").symlink_to(ROOT / "convnext_backbones")
    done = subprocess.run(
        [zensical, "build", "--strict"], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = folder / CONFIG["site_dir"]
    for beside in ("configs", "notebooks"):
        shutil.copytree(ROOT / beside, site.parent / beside)
    return site, re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)


def test_the_build_says_nothing_of_faults(built):
    lines = [line for line in built[1].splitlines() if line.strip()]
    said = {line.split(" in ")[0] for line in lines}
    assert said == {"Build started", "No issues found", "Build finished"}, built[1]


def test_every_link_leads_to_a_page_a_file_or_an_anchor(built):
    site = built[0]
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 20
    broken = []
    for page in pages.values():
        if page.path.name == "404.html":  # with links from the root of a server
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                assert parts.scheme in ("https", "http", "mailto", "data"), f"{page.path}: {link}"
                assert parts.scheme in ("data", "mailto") or "." in parts.netloc, (
                    f"{page.path}: {link}"
                )
                continue
            target = page.path
            if parts.path:
                target = Path(os.path.normpath(page.path.parent / unquote(parts.path)))
                target = target / "index.html" if target.is_dir() else target
            anchors = pages[target].anchors if target in pages else ()
            if not target.exists() or site.parent not in target.parents or (
                parts.fragment and unquote(parts.fragment) not in anchors
            ):  # fmt: skip
                broken.append(f"{page.path.relative_to(site)}: {link}")
    assert broken == []


def test_the_site_asks_nothing_of_other_servers(built):
    home = Page(built[0] / "index.html")
    elsewhere = {link for link in home.links if "//" in link}
    assert all("zensical.org" in link for link in elsewhere), elsewhere


def test_every_page_is_in_the_navigation_once():
    def files(entries):
        for entry in entries:
            if isinstance(entry, str):
                yield entry
            else:
                for inner in entry.values():
                    yield from [inner] if isinstance(inner, str) else files(inner)

    pages = [str(path.relative_to(DOCS)) for path in SHOWN if DOCS in path.parents]
    assert sorted(files(CONFIG["nav"])) == sorted(pages)


def test_links_of_the_readme_lead_to_files():
    for name in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text()):
            assert "://" in link or (ROOT / link).exists(), f"{name}: {link}"
    assert len((ROOT / "README.md").read_text().splitlines()) <= 80
