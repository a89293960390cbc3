"""What the site has besides its pages: two files of the repository's root, and llms.txt for programs that read."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
FROM_ROOT = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
WIDE = ("encoders.md",)
LONG = ("encoders.md", "options.md", "studies.md", "changelog.md", "contributing.md", "api/")
"""What llms-full.txt leaves out: llms.txt leads to it."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the root as pages; their links are seen from the root."""
    for page, name in FROM_ROOT.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=re.sub(r"\]\((?:docs/|(?=README))", "](", text)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Give wide tables the whole width, and lead to the files of the root where the site has them."""
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["navigation", "toc"]
    for there, name in FROM_ROOT.items():
        markdown = markdown.replace(f"](../{name}", f"]({there}")
    return markdown


def on_nav(nav: Navigation, config: MkDocsConfig, **_: object) -> Navigation:
    """Keep the order of the pages for llms.txt."""
    config.extra["order"] = nav
    return nav


def on_post_build(config: MkDocsConfig) -> None:
    """Write llms.txt (what there is, a line a page) and llms-full.txt (the guides as one text)."""
    lines, texts = [f"# {config.site_name}\n\n> {config.site_description}\n"], []
    for item in config.extra["order"].items:
        lines.append(f"\n## {item.title}\n\n" if isinstance(item, Section) else "\n")
        for page in _pages(item):
            lines.append(f"- [{page.title}]({page.url}): {_first_sentence(page.markdown or '')}\n")
            if not page.file.src_uri.startswith(LONG):
                texts.append(page.markdown or "")
    lines.append("\n## All guides as one text\n\n- [llms-full.txt](llms-full.txt)\n")
    (Path(config.site_dir) / "llms.txt").write_text("".join(lines), encoding="utf-8")
    (Path(config.site_dir) / "llms-full.txt").write_text("\n\n".join(texts), encoding="utf-8")


def _pages(item: Section | Page) -> list[Page]:
    return [item] if isinstance(item, Page) else [page for child in item.children for page in _pages(child)]


def _first_sentence(markdown: str) -> str:
    """Return the first sentence of the first paragraph that is prose."""
    blocks = re.sub(r"<!--.*?-->|^---$.*?^---$", "", markdown, flags=re.DOTALL | re.MULTILINE).split("\n\n")
    prose = next((block for block in blocks if re.match(r"(?!Written from|```)[A-Z*`\[]", block.strip())), "")
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(prose.split()))
    return re.split(r"(?<=[.?!]) (?=[A-Z])", text)[0]
