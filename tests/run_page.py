"""What tests ask of the page of a run."""

import json
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """What a test asks of a page: its tags, what they lead to, its texts and tables."""

    def __init__(self, file: Path):
        super().__init__()
        self.html = file.read_text()
        self.tags, self.links, self.ids, self.tables = [], [], [], []
        self.words, self.in_cell = "", False
        self.feed(self.html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.links += [attributes[k] for k in ("src", "href", "xlink:href") if attributes.get(k)]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_data(self, data):
        if self.tags[-1:] not in (["script"], ["style"]):
            self.words += data
        if self.in_cell:
            self.tables[-1][-1][-1] += data.strip()

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def table(self, head: str) -> list[list[str]]:
        """The rows of the first table whose first column is called so."""
        return next(table[1:] for table in self.tables if table[0][0] == head)


def check_page(work_dir: Path, printed: str, task: str) -> Page:
    """The page of a real training, which lacks nothing."""
    assert f"report:      {work_dir.name}/report.html" in printed
    page = Page(work_dir / "report.html")
    assert all(link.startswith(("data:", "#")) for link in page.links)
    kept = json.loads((work_dir / "report/run.json").read_text())
    assert kept["lacks"] == []
    assert kept["looked"]["task"] == task
    assert kept["looked"]["without_truth"] == 0
    assert kept["looked"]["pictures"][0]["file"] in page.words
    assert [data["pictures"] > 0 for data in kept["data"]] == [True, True]
    assert sum(group["parameters"] for group in kept["groups"]) == kept["network"]["trained"]
    titles = page.words.partition("Curves")[2]
    for words in ("Losses", "Metrics", "Learning rates by group", "Seconds a step"):
        assert words in titles
    assert page.table("class")
    assert page.table("truth")
    return page
