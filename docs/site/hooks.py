"""Puts the pages that lie beside docs/ into the site, and lists the decisions."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages, their links made those of the site."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/decisions)", "](decisions/index.md)")
        text = text.replace("](docs/", "](")
        for other, its_page in PAGES.items():
            text = text.replace(f"]({other}", f"]({its_page}")
        files.append(File.generated(config, page, content=text))
    lines = [
        "# Decisions",
        "",
        "Why kcv is as it is: the question, the decision, what was measured, what was rejected.",
        "",
    ]
    for path in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        found = re.search(r"^# (.+)", path.read_text(encoding="utf-8"))
        lines.append(f"- [{found[1] if found else path.stem}]({path.name})")
    files.append(File.generated(config, "decisions/index.md", content="\n".join(lines)))
    return files


def on_page_markdown(markdown: str, page: Page, **unused: object) -> str:
    """Makes links to the pages beside docs/ those of the site."""
    depth = page.file.src_uri.count("/")
    for name, its_page in PAGES.items():
        markdown = markdown.replace(f"]({'../' * (depth + 1)}{name}", f"]({'../' * depth}{its_page}")
    return markdown
